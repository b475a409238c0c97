-- Saves a group's position and counts with their time to live.
--
-- KEYS[1]  the hash
-- ARGV[1]  seconds it is kept  ARGV[2…] fields and values

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return redis.call('EXPIRE', KEYS[1], ARGV[1])
