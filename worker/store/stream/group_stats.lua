-- How stream and group stand, at one moment, and what was counted as lost by then.
-- A script, because the server's own answer holds two whole entries, which may be megabytes.
--
-- KEYS[1]  the stream          KEYS[2]  the hash that keeps the group's position
-- ARGV[1]  the consumer group
--
-- Answers: length, first id, newest id, entries added, last delivered id, entries read, lag,
-- entries pending, oldest pending id, entries that our workers trimmed; seen, cursor, mends, gone and
-- handed of the hash. Nothing for unknowns.

local function row(flat)
    local fields = {}
    for i = 1, #flat, 2 do
        fields[flat[i]] = flat[i + 1]
    end
    return fields
end

local stream = row(redis.call('XINFO', 'STREAM', KEYS[1]))
local group
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local candidate = row(flat)
    if candidate.name == ARGV[1] then
        group = candidate
    end
end
if not group then
    return redis.error_reply('NOGROUP the consumer group is gone')
end
local first, newest = stream['first-entry'], stream['last-entry']
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
local kept = redis.call('HMGET', KEYS[2], 'trimmed', 'seen', 'cursor', 'mends', 'gone', 'handed')
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
    tonumber(kept[1]) or 0,
    kept[2],
    kept[3],
    kept[4],
    kept[5],
    kept[6],
}
