-- Reads strings, and optionally a timeline with the messages of a window of it. Writes nothing.
--
-- Message keys depend on the timeline's contents, so they cannot be declared in KEYS. They are in the
-- same namespace, and the server checks the user's permissions for each key all the same.
--
-- KEYS[1]  instance to account   then strings, and last the timeline, if there is one
-- ARGV[1]  the instance          ARGV[2]  1 to return the remaining TTL of each key
-- and with a timeline:
-- ARGV[3]  key of a message without its id
-- ARGV[4]  'newest' or 'oldest': the end of the window from which messages are read
-- ARGV[5]  number of messages    ARGV[6], ARGV[7]  exclusive bounds of the window's ids
--
-- Returns: the account; the timeline's ids, ascending and separated by spaces; the window's ids; the
-- values of the strings and then of the window's messages; and PTTL of the accounts, of the timeline
-- (if any) and of each value's key.

local with_ttl = ARGV[2] == '1'

-- Returns a reply, or `default` if the key has another type.
local function unless_wrong_type(reply, default)
    if type(reply) == 'table' and reply.err then
        if string.find(reply.err, 'WRONGTYPE', 1, true) then
            return default
        end
        error(reply.err)
    end
    return reply
end

local function ttl_of(key)
    return with_ttl and redis.call('PTTL', key) or -1
end

local account = unless_wrong_type(redis.pcall('HGET', KEYS[1], ARGV[1]), false)
local keys, ttls = {unpack(KEYS, 2)}, {ttl_of(KEYS[1])}
local ids, window = {}, {}
if #ARGV > 2 then
    local timeline = table.remove(keys)
    local limit, after, before = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
    ids = unless_wrong_type(redis.pcall('ZRANGE', timeline, 0, -1), {})
    ttls[2] = ttl_of(timeline)
    local first, last, step = 1, #ids, 1
    if ARGV[4] == 'newest' then
        first, last, step = #ids, 1, -1
    end
    for i = first, last, step do
        local id = tonumber(ids[i])
        if #window < limit and id and id > after and id < before then
            window[#window + 1] = ids[i]
        end
    end
end
for _, id in ipairs(window) do
    keys[#keys + 1] = ARGV[3] .. id
end

-- MGET returns nil for a value of another type.
local values = #keys > 0 and redis.call('MGET', unpack(keys)) or {}
for _, key in ipairs(keys) do
    ttls[#ttls + 1] = ttl_of(key)
end
return {account, table.concat(ids, ' '), window, values, ttls}
