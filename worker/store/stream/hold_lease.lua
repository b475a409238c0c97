-- Takes, renews or releases a lease: a key that names its holder and expires.
--
-- KEYS[1]  the lease
-- ARGV[1]  the caller's token  ARGV[2]  milliseconds to hold it; 0 releases it
--
-- Returns 1 when the caller holds the lease, or held it until now.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
if ARGV[2] == '0' then
    return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
