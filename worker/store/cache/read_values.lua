-- Reads values, and with a timeline the messages of a window of it, in one step. Writes nothing.
--
-- Messages are found by what the timeline holds, so their keys cannot be stated beforehand:
-- they are in the same namespace, and rights are checked key by key all the same.
--
-- KEYS[1]  instance to account   then strings, and at the end a timeline, if there is one
-- ARGV[1]  the instance          ARGV[2]  1 to be told how long each value lives
-- and with a timeline:
-- ARGV[3]  what stands before the id in a message's key
-- ARGV[4]  'newest' or 'oldest': which of the window's messages to bring
-- ARGV[5]  how many              ARGV[6], ARGV[7]  the ids around the window
--
-- Answers: the account; the timeline's ids, in order and with spaces between; the window's ids;
-- the strings' values and then those of the window's messages; and the milliseconds that the
-- accounts, the timeline (if any) and each of those have left (-1: no end, -2: not there).

local timed = ARGV[2] == '1'

-- Returns a reply, or `otherwise` where the key holds a value of another type.
local function unless_of_other_type(reply, otherwise)
    if type(reply) == 'table' and reply.err then
        if string.find(reply.err, 'WRONGTYPE', 1, true) then
            return otherwise
        end
        error(reply.err)
    end
    return reply
end

local function left(key)
    return timed and redis.call('PTTL', key) or -1
end

local account = unless_of_other_type(redis.pcall('HGET', KEYS[1], ARGV[1]), false)
local keys, lives = {unpack(KEYS, 2)}, {left(KEYS[1])}
local ids, window = {}, {}
if #ARGV > 2 then
    local timeline = table.remove(keys)
    local most, after, before = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
    ids = unless_of_other_type(redis.pcall('ZRANGE', timeline, 0, -1), {})
    lives[2] = left(timeline)
    local first, last, step = 1, #ids, 1
    if ARGV[4] == 'newest' then
        first, last, step = #ids, 1, -1
    end
    for i = first, last, step do
        local id = tonumber(ids[i])
        if #window < most and id and id > after and id < before then
            window[#window + 1] = ids[i]
        end
    end
end
for _, id in ipairs(window) do
    keys[#keys + 1] = ARGV[3] .. id
end

-- MGET gives nothing for a value of another type.
local values = #keys > 0 and redis.call('MGET', unpack(keys)) or {}
for _, key in ipairs(keys) do
    lives[#lives + 1] = left(key)
end
return {account, table.concat(ids, ' '), window, values, lives}
