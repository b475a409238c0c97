// PM2 runs the worker beside Evolution. In the folder that holds Evolution's .env (or env.yml):
//
//   pm2 start /opt/chatwoot-cache/deploy/pm2/ecosystem.config.cjs
//   EXTRA_WORKERS=2 pm2 start …       two more processes that only read the stream
//
// The settings are those of that folder; here stands only what PM2 has to know.
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
  // Online means that Redis was tried and the ports are open.
  wait_ready: true,
  listen_timeout: 30000,
  // Above CHATWOOT_CACHE_SHUTDOWN_TIMEOUT_S (10 s) and the 5 s that a request in hand may take.
  kill_timeout: 20000,
  // Ten tries, none of which works for ten seconds, end as "errored": so do wrong settings.
  // No delay between them: with one, PM2 (7.0.4) gives up all the same, but goes on showing
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

// Consumers are told apart by PM2's number: <host>-0, <host>-1, …
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
