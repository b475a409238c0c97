-- Grants new bindings, so that no two workers can bind apart.
--
-- KEYS[1]  inbox ("account/inbox") to instance   KEYS[2]  instance to account
-- ARGV[1]  time to live of both in seconds
-- then for each claim: inbox, account, instance, 1 when it may join the instance's other inboxes
--
-- Answers for each claim: the instance that the inbox is bound to now (or nil), and the account
-- that the claimed instance belongs to now.

local answers = {}
for i = 2, #ARGV, 4 do
    local inbox, account, instance, further = unpack(ARGV, i, i + 3)
    local bound = redis.call('HGET', KEYS[1], inbox)
    local owner = redis.call('HGET', KEYS[2], instance)
    if not bound and (not owner or (owner == account and further == '1')) then
        redis.call('HSET', KEYS[1], inbox, instance)
        redis.call('HSET', KEYS[2], instance, account)
        bound, owner = instance, account
    end
    answers[#answers + 1] = {bound, owner}
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return answers
