-- Binds inboxes as the operator states, over existing bindings, or unbinds them.
--
-- An instance without inboxes loses its account.
--
-- KEYS[1]  inbox ("account/inbox") to instance   KEYS[2]  instance to account
-- KEYS[3]  version of both
-- ARGV[1]  TTL of all keys in seconds            ARGV[2]  a new, unique version
-- then for each inbox: the inbox, its account, its new instance, or '' for none
--
-- Returns for each inbox the instance it was bound to, or nil if that has not changed.

local function is_bound_to(instance)
    for _, bound in ipairs(redis.call('HVALS', KEYS[1])) do
        if bound == instance then
            return true
        end
    end
    return false
end

local replies, changed = {}, false
for i = 3, #ARGV, 3 do
    local inbox, account, instance = unpack(ARGV, i, i + 2)
    local was = redis.call('HGET', KEYS[1], inbox)
    if instance == '' then
        redis.call('HDEL', KEYS[1], inbox)
    else
        changed = changed or redis.call('HGET', KEYS[2], instance) ~= account
        redis.call('HSET', KEYS[1], inbox, instance)
        redis.call('HSET', KEYS[2], instance, account)
    end
    local moved = was and was ~= instance
    if moved and not is_bound_to(was) then
        redis.call('HDEL', KEYS[2], was)
    end
    changed = changed or (was or '') ~= instance
    replies[#replies + 1] = moved and was
end
if changed then
    redis.call('SET', KEYS[3], ARGV[2])
end
for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[1])
end
return replies
