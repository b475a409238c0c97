-- Deletes consumers that were idle for long and have no pending entries, which would go with them.
-- In one step, or a consumer could be handed an entry in between.
--
-- KEYS[1]  the stream
-- ARGV[1]  the consumer group  ARGV[2]  our own name, which stays
-- ARGV[3]  milliseconds of idle time
--
-- Returns how many were deleted.

local retired = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for i = 1, #row, 2 do
        consumer[row[i]] = row[i + 1]
    end
    local is_idle = consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3])
    if is_idle and consumer.name ~= ARGV[2] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        retired = retired + 1
    end
end
return retired
