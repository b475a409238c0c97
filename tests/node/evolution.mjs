// What Evolution API's cache does (src/cache/rediscache.ts of 2.3), with its client library:
//   node evolution.mjs URI PREFIX get KEY          prints the value, parsed and written again
//   node evolution.mjs URI PREFIX clear INSTANCE   deletes the instance's keys; prints how many

import { createClient } from 'redis';

const [uri, prefix, action, argument] = process.argv.slice(2);
const module = 'chatwoot';
const buildKey = (key) => `${prefix}:${module}:${key}`;

const client = createClient({ url: uri });
await client.connect();

const actions = {
  get: async (key) => JSON.parse(await client.get(buildKey(key))),
  clear: async (instance) => {
    const keys = [];
    for await (const key of client.scanIterator({ MATCH: buildKey(`${instance}:*`), COUNT: 100 })) {
      keys.push(key);
    }
    return keys.length ? client.del(keys) : 0;
  },
};

console.log(JSON.stringify(await actions[action](argument)));
await client.disconnect();
