-- Takes documents out of the cache, each with what points to it, in one step.
--
-- KEYS     for each document: its own key, its conversation's timeline, its pointers
-- ARGV     for each document:
--   its id; the number of pointers; 1 to take the whole timeline, 0 to take its id out of it;
--   the account and the inbox that it must be of, or '' and '' for any
--
-- Answers: documents taken out. A pointer is taken out only while it holds the document's id.

local erased, key = 0, 1
for arg = 1, #ARGV, 5 do
    local id, pointers, whole, account, inbox = unpack(ARGV, arg, arg + 4)
    local last = key + 1 + pointers
    local stored = redis.pcall('GET', KEYS[key])
    local is_text = type(stored) == 'string'
    local head = '^{"revision":"%d+","instance":".-","account_id":' .. account .. ',"inbox_id":' .. inbox .. ','
    if account == '' or (is_text and string.find(stored, head)) then
        erased = erased + redis.call('DEL', KEYS[key])
        if whole == '1' then
            redis.call('DEL', KEYS[key + 1])
        else
            redis.pcall('ZREM', KEYS[key + 1], id)
        end
        for i = key + 2, last do
            if redis.pcall('GET', KEYS[i]) == id then
                redis.call('DEL', KEYS[i])
            end
        end
    end
    key = last + 1
end
return erased
