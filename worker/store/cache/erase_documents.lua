-- Deletes documents with the keys that point to them, atomically.
--
-- KEYS     for each document: its key, its conversation's timeline, its pointers
-- ARGV     for each document:
--   its id; its number of pointers; 1 to delete the whole timeline, 0 to remove its id from it;
--   the account and inbox it must be of, or '' and '' for any
--
-- Returns the number of documents deleted. A pointer is deleted only if it holds the document's id.
-- The pattern depends on the order of members, as `write_documents.lua` states.

local erased, key = 0, 1
for arg = 1, #ARGV, 5 do
    local id, pointers, whole, account, inbox = unpack(ARGV, arg, arg + 4)
    local last = key + 1 + pointers
    local stored = redis.pcall('GET', KEYS[key])
    local is_string = type(stored) == 'string'
    local head = '^{"revision":"%d+","instance":".-","account_id":' .. account .. ',"inbox_id":' .. inbox .. ','
    if account == '' or (is_string and string.find(stored, head)) then
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
