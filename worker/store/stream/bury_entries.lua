-- Moves entries to the dead letters and acknowledges them in one step.
--
-- An entry that was acknowledged before (the reply to an earlier call was lost) is not added twice,
-- unless it is gone from the stream: then the caller holds its only copy.
--
-- KEYS[1]  the stream          KEYS[2]  its dead-letter stream
-- ARGV[1]  the consumer group  ARGV[2]  dead letters kept at most  ARGV[3]  seconds they are kept
-- then for each entry: its id, how many arguments follow, the dead letter's fields and values
--
-- Returns entries acknowledged, and dead letters dropped because they were too many or too old.

local group, most, retention = ARGV[1], ARGV[2], ARGV[3]
local acked, arg = 0, 4
while arg <= #ARGV do
    local id, count = ARGV[arg], tonumber(ARGV[arg + 1])
    -- A script that fails undoes nothing, so the dead letter is added before the acknowledgement.
    local known = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
    local is_pending = not known.err and #known == 1
    if is_pending or #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        redis.call('XADD', KEYS[2], '*', unpack(ARGV, arg + 2, arg + 1 + count))
    end
    if is_pending then
        acked = acked + redis.call('XACK', KEYS[1], group, id)
    end
    arg = arg + 2 + count
end

-- Whole nodes by id, the rest by number: within a node Redis 6.2 compares ids cut to 32 bits, and
-- would drop young dead letters.
local oldest = string.format('%.0f-0', math.max(1, redis.call('TIME')[1] - retention) * 1000)
local dropped = redis.call('XTRIM', KEYS[2], 'MAXLEN', most)
    + redis.call('XTRIM', KEYS[2], 'MINID', '~', oldest)
local old = #redis.call('XRANGE', KEYS[2], '-', '(' .. oldest, 'COUNT', 1000)
if old > 0 then
    dropped = dropped + redis.call('XTRIM', KEYS[2], 'MAXLEN', redis.call('XLEN', KEYS[2]) - old)
end
return {acked, dropped}
