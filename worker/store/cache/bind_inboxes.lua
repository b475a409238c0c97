-- Binds inboxes by the operator's word, over whatever stands, or unbinds them.
--
-- An instance that no inbox is bound to any more belongs to no account.
--
-- KEYS[1]  inbox ("account/inbox") to instance   KEYS[2]  instance to account
-- KEYS[3]  version of both
-- ARGV[1]  time to live of all in seconds        ARGV[2]  a version that never was
-- then for each inbox: the inbox, its account, its instance from now on, or '' for none
--
-- Answers for each inbox: the instance it was bound to, or nil where that is no other.

local function is_bound_to(instance)
    for _, held in ipairs(redis.call('HVALS', KEYS[1])) do
        if held == instance then
            return true
        end
    end
    return false
end

local answers, changed = {}, false
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
    answers[#answers + 1] = moved and was
end
if changed then
    redis.call('SET', KEYS[3], ARGV[2])
end
for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[1])
end
return answers
