-- Grants new bindings atomically, so that workers cannot bind differently.
--
-- KEYS[1]  inbox ("account/inbox") to instance   KEYS[2]  instance to account
-- KEYS[3]  version of both
-- ARGV[1]  TTL of all keys in seconds            ARGV[2]  a new, unique version
-- then for each claim: inbox, account, instance, 1 if it may join the instance's other inboxes
--
-- Returns first the version if these are the first bindings of all, else '';
-- then for each claim the instance that the inbox is bound to now (or nil), and the account that the
-- claimed instance belongs to now.

local replies, granted = {''}, false
for i = 3, #ARGV, 4 do
    local inbox, account, instance, further = unpack(ARGV, i, i + 3)
    local bound = redis.call('HGET', KEYS[1], inbox)
    local owner = redis.call('HGET', KEYS[2], instance)
    if not bound and (not owner or (owner == account and further == '1')) then
        redis.call('HSET', KEYS[1], inbox, instance)
        redis.call('HSET', KEYS[2], instance, account)
        bound, owner, granted = instance, account, true
    end
    replies[#replies + 1] = {bound, owner}
end
if granted and redis.call('SET', KEYS[3], ARGV[2], 'NX') then
    replies[1] = ARGV[2]
end
for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[1])
end
return replies
