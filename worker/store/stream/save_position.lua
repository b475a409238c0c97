-- Keeps how far a group is settled, unless another worker counted losses meanwhile.
--
-- KEYS[1]  the hash that keeps the group's position
-- ARGV[1]  seconds it is kept
-- ARGV[2…5] seen, cursor, mends and gone as they were when the group was looked at, '' for none
-- ARGV[6…] the hash's fields and values from now on
--
-- Answers 1 when it was kept.

local kept = redis.call('HMGET', KEYS[1], 'seen', 'cursor', 'mends', 'gone')
for i = 1, 4 do
    if (kept[i] or '') ~= ARGV[i + 1] then
        return 0
    end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
