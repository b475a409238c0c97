// Runs the worker under PM2, beside Evolution. In the folder of Evolution's .env (or env.yml):
//
//   pm2 start /opt/chatwoot-cache/deploy/pm2/ecosystem.config.cjs
//   EXTRA_WORKERS=2 pm2 start …       two more processes that only read the stream
//
// Settings are read from that folder; this file contains only what PM2 needs.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const homes = [path.join(__dirname, "..", ".."), "/opt/chatwoot-cache"];
const programs = homes.map((home) => path.join(home, ".venv", "bin", "chatwoot-cache"));
const program = programs.find((file) => fs.existsSync(file));
if (!program) throw new Error(`Run "make install" first: there is no ${programs.join(" and no ")}`);

const extra = Number(process.env.EXTRA_WORKERS || 0);

const common = {
  script: program,
  args: "run",
  cwd: process.cwd(),
  interpreter: "none",
  exec_mode: "fork",
  // A process is online when it has tried Redis and its ports are open.
  wait_ready: true,
  listen_timeout: 30000,
  // More than CHATWOOT_CACHE_SHUTDOWN_TIMEOUT_S (10 s) plus the 5 s that a running request may take.
  kill_timeout: 20000,
  // After ten starts that end within ten seconds, the process is "errored", as with an invalid
  // setting. No delay between them: with one, PM2 (7.0.4) also gives up, but still shows
  // "waiting restart".
  min_uptime: 10000,
  max_restarts: 10,
  merge_logs: true,
};

const main = {
  ...common,
  name: "chatwoot-cache",
  instances: 1,
  env: {
    CHATWOOT_CACHE_LOG_FORMAT: "json",
    CHATWOOT_CACHE_STREAM_CONSUMER: os.hostname(),
  },
};

// PM2's number is part of the consumer's name: <host>-0, <host>-1, …
const workers = {
  ...common,
  name: "chatwoot-cache-extra",
  instances: extra,
  increment_var: "CHATWOOT_CACHE_OPS_PORT",
  env: {
    CHATWOOT_CACHE_LOG_FORMAT: "json",
    CHATWOOT_CACHE_WEBHOOK_ENABLED: "false",
    CHATWOOT_CACHE_HTTP_PORT: "0",
    CHATWOOT_CACHE_OPS_PORT: 9861,
  },
};

module.exports = { apps: extra > 0 ? [main, workers] : [main] };
