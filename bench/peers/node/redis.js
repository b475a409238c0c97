// node `redis` 4.x. `per-event`: one setEx, then one xAck, each awaited, as Evolution API does it.
// `batched`: the writes of a batch at once, which the client sends as one pipeline, then one xAck.

import process from "node:process";
import { createClient } from "redis";

const { BENCH_URI, BENCH_STREAM, BENCH_GROUP, BENCH_CONSUMER, BENCH_PREFIX } = process.env;
const TTL_S = 604_800;
const BATCH = 500;
const BLOCK_MS = 1_000;

const client = createClient({ url: BENCH_URI });
client.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
await client.connect();

function write(payload) {
  const { id, inbox } = JSON.parse(payload);
  return client.setEx(`${BENCH_PREFIX}:chatwoot:${inbox.name}:message:${id}`, TTL_S, payload);
}

async function settleOneByOne(entries) {
  for (const { id, message } of entries) {
    await write(message.payload);
    await client.xAck(BENCH_STREAM, BENCH_GROUP, id);
  }
}

async function settleTogether(entries) {
  await Promise.all(entries.map(({ message }) => write(message.payload)));
  await client.xAck(BENCH_STREAM, BENCH_GROUP, entries.map(({ id }) => id));
}

const settle = process.argv[2] === "batched" ? settleTogether : settleOneByOne;
for (;;) {
  const read = await client.xReadGroup(
    BENCH_GROUP,
    BENCH_CONSUMER,
    { key: BENCH_STREAM, id: ">" },
    { COUNT: BATCH, BLOCK: BLOCK_MS },
  );
  if (read) await settle(read[0].messages);
}
