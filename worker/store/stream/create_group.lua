-- Creates stream and group, from the position that the group had if it had one.
--
-- That position is used only while the stream still holds the entry that was its newest then.
-- A stream without it is another one (deleted, flushed, an empty replica's): its ids may have gone
-- back with the server's clock, and whoever skips them loses entries. It is read from its start.
--
-- KEYS[1]  the stream          KEYS[2]  the hash that keeps the group's position
-- ARGV[1]  the consumer group  ARGV[2]  seconds the hash is kept
-- ARGV[3…6] id, read, witness and unsettled, as the hash holds them: used where it is gone
--
-- Answers: nothing when the group exists, else the position, whether there had been a group,
-- and how many entries it had not settled when it was last looked at, if they are gone.

local group, ttl = ARGV[1], ARGV[2]
local kept = redis.call('HMGET', KEYS[2], 'id', 'read', 'witness', 'unsettled')
if not kept[1] then
    kept = {ARGV[3], ARGV[4], ARGV[5], ARGV[6]}
end
local id, read, witness, unsettled = kept[1], kept[2], kept[3], kept[4]

local is_same = witness and witness ~= '' and #redis.call('XRANGE', KEYS[1], witness, witness) == 1
local from = is_same and id or '0-0'
local made
if is_same and read and read ~= '' then
    -- Unknown before Redis 7.0; without it the lag is unknown until the group has caught up.
    made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'ENTRIESREAD', read)
end
if not made or (made.err and not made.err:find('BUSYGROUP', 1, true)) then
    made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'MKSTREAM')
end
if made.err then
    if made.err:find('BUSYGROUP', 1, true) then
        return {}
    end
    return made
end

redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'id', from, 'witness', is_same and witness or '', 'unsettled', 0)
redis.call('EXPIRE', KEYS[2], ttl)
return {from, id ~= '' and 1 or 0, is_same and 0 or tonumber(unsettled) or 0}
