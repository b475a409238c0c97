-- Reads stream, group and the group's saved counts at one moment.
-- A script, because XINFO STREAM returns two whole entries, which may be megabytes.
--
-- KEYS[1]  the stream          KEYS[2]  the hash that keeps the group's position
-- ARGV[1]  the consumer group
--
-- Returns: length, first id, newest id, entries added, last delivered id, entries read, lag,
-- entries pending, oldest pending id, consumers; then delivered, read, excess and gap of the hash.
-- False for what is unknown.

local function as_table(flat)
    local fields = {}
    for i = 1, #flat, 2 do
        fields[flat[i]] = flat[i + 1]
    end
    return fields
end

local stream = as_table(redis.call('XINFO', 'STREAM', KEYS[1]))
local group
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local candidate = as_table(flat)
    if candidate.name == ARGV[1] then
        group = candidate
    end
end
if not group then
    return redis.error_reply('NOGROUP the consumer group is gone')
end
local first, newest = stream['first-entry'], stream['last-entry']
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
local saved = redis.call('HMGET', KEYS[2], 'counted_at', 'counted', 'excess', 'gap')
return {
    stream.length,
    first and first[1] or false,
    newest and newest[1] or false,
    stream['entries-added'] or false,
    group['last-delivered-id'],
    group['entries-read'] or false,
    group.lag or false,
    pending[1],
    pending[2] or false,
    group.consumers,
    saved[1],
    saved[2],
    saved[3],
    saved[4],
}
