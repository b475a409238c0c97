-- Creates stream and group, from the group's saved position if there is one.
--
-- That position is used only while the stream still holds the entry that was its newest then.
-- A stream without it is another one (deleted, flushed, an empty replica's): its ids may have gone
-- back with the server's clock, and a group that skips them loses entries. It is read from its
-- start.
--
-- A group that exists, has no consumers and skips entries behind the saved position was created
-- by somebody else, for example at `$`. It is set back.
--
-- KEYS[1]  the stream          KEYS[2]  the hash that keeps the group's position
-- ARGV[1]  the consumer group  ARGV[2]  seconds the hash is kept
-- ARGV[3…6] id, read, witness and unsettled, used where the hash is gone
--
-- Returns nothing when the group exists; else the position, whether there had been a group, how
-- many entries it had not settled at the last measurement, if they are gone, and the id from which
-- an existing group was set back, '' for a new one.

local group, ttl = ARGV[1], ARGV[2]
local saved = redis.call('HMGET', KEYS[2], 'id', 'read', 'witness', 'unsettled')
if not saved[1] then
    saved = {ARGV[3], ARGV[4], ARGV[5], ARGV[6]}
end
local id, read, witness, unsettled = saved[1], saved[2], saved[3], saved[4]

local is_same = witness and witness ~= '' and #redis.call('XRANGE', KEYS[1], witness, witness) == 1
local from = is_same and id or '0-0'

-- Returns the last delivered id of a group that nobody has read from, nil when there is none.
local function unused_at()
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local fields = {}
        for i = 1, #row, 2 do
            fields[row[i]] = row[i + 1]
        end
        if fields.name == group then
            return fields.consumers == 0 and fields['last-delivered-id'] or nil
        end
    end
end

local function xgroup(command, ...)
    local made
    if is_same and read and read ~= '' then
        -- Unknown before Redis 7.0; without it the lag is unknown until the group has caught up.
        made = redis.pcall('XGROUP', command, KEYS[1], group, from, 'ENTRIESREAD', read)
    end
    if not made or (made.err and not made.err:find('BUSYGROUP', 1, true)) then
        made = redis.pcall('XGROUP', command, KEYS[1], group, from, ...)
    end
    return made
end

local made, set_back_from = xgroup('CREATE', 'MKSTREAM'), ''
if made.err and made.err:find('BUSYGROUP', 1, true) then
    local at = id ~= '' and unused_at()
    if not at or #redis.call('XRANGE', KEYS[1], '(' .. from, at, 'COUNT', 1) == 0 then
        return {}
    end
    made, set_back_from, unsettled = xgroup('SETID'), at, 0
end
if made.err then
    return made
end

redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'id', from, 'witness', is_same and witness or '', 'unsettled', 0)
redis.call('EXPIRE', KEYS[2], ttl)
return {from, id ~= '' and 1 or 0, is_same and 0 or tonumber(unsettled) or 0, set_back_from}
