-- Writes documents, each with its index and its time to live, in one step.
--
-- A document's revision is a row of stamps of equal width. A document is written when none of its
-- stamps is smaller than the stored one's, is stale when none is greater, and otherwise the stored
-- one is handed back, to be merged and sent again. So what is stored only ever grows, whoever writes.
--
-- KEYS[1]  the version of the bindings
-- KEYS     then for each document: its own key, its timeline (if it has one), its pointers
-- ARGV[1]  digits of a stamp
-- ARGV[2]  time to live in seconds: of indexes, and the age beyond which nothing is created
-- ARGV[3]  members of a timeline
-- ARGV[4]  the version of the bindings that say where the documents belong, or '*' for any
-- then for each document:
--   the document; its id; its time to live in seconds;
--   the time of its newest event in milliseconds, or '' where its age does not matter;
--   1 or 0 for a timeline; the number of pointers;
--   '', or the revision of a stored document that cannot be read and is to be replaced
--
-- Answers for each document: 'applied', 'stale', 'wrong_type', or the stored document.
-- Answers 'outdated', and writes nothing, where the bindings are of another version.

-- In the step that writes, so that no worker, however long it slept, writes where an inbox was.
if ARGV[4] ~= '*' and (redis.call('GET', KEYS[1]) or '') ~= ARGV[4] then
    return 'outdated'
end

local width, ttl, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = redis.call('TIME')
local oldest = (now[1] - ttl) * 1000

-- Returns the string at a key, nil where there is none, and whether it is of another type.
local function get(key)
    local value = redis.pcall('GET', key)
    if type(value) ~= 'table' then
        return value or nil, false
    end
    if string.find(value.err, 'WRONGTYPE', 1, true) then
        return nil, true
    end
    error(value.err)
end

-- Returns revision and account of a value, or nothing when the value is not ours, or not whole.
-- In JSON no name can hold an unescaped quote, so what follows the first one is the account.
local function read(value)
    if value and string.sub(value, -1) == '}' then
        return string.match(value, '^{"revision":"(%d+)","instance":".-","account_id":(%d+),')
    end
end

-- Says whether any stamp of `mine` is greater, and whether any of `theirs` is.
local function compare(mine, theirs)
    local ahead, behind = false, false
    for from = 1, #mine, width do
        local a, b = string.sub(mine, from, from + width - 1), string.sub(theirs, from, from + width - 1)
        ahead = ahead or a > b
        behind = behind or a < b
    end
    return ahead, behind
end

-- Lets a pointer hold the greatest id.
local function point(key, id, target)
    local held = tonumber(target)
    if held and held >= tonumber(id) then
        redis.call('EXPIRE', key, ttl)
    else
        redis.call('SET', key, id, 'EX', ttl)
    end
end

-- Decides what becomes of a document: nil when it is to be written, else the answer.
local function judge(stored, document, born, unreadable)
    local mine, account = read(document)
    local theirs, owner = read(stored)
    -- What another account left under the same name is no state of this document.
    if theirs and #theirs == #mine and owner == account and theirs ~= unreadable then
        local ahead, behind = compare(mine, theirs)
        return not ahead and 'stale' or behind and stored or nil
    end
    if not stored and born ~= '' and tonumber(born) < oldest then
        return 'stale'
    end
    return nil
end

-- Writes a document and its index; every type is looked at before anything is written.
local function write(keys, document, id, life, born, has_timeline, unreadable)
    local stored, wrong = get(keys[1])
    if wrong then
        return 'wrong_type'
    end
    local answer = judge(stored, document, born, unreadable)
    if answer then
        return answer
    end

    local first = has_timeline and 3 or 2
    local targets = {}
    for i = first, #keys do
        targets[i], wrong = get(keys[i])
        if wrong then
            return 'wrong_type'
        end
    end
    if has_timeline then
        local added = redis.pcall('ZADD', keys[2], id, id)
        if type(added) == 'table' then
            if string.find(added.err, 'WRONGTYPE', 1, true) then
                return 'wrong_type'
            end
            error(added.err)
        end
        redis.call('ZREMRANGEBYRANK', keys[2], 0, -length - 1)
        redis.call('EXPIRE', keys[2], ttl)
    end
    for i = first, #keys do
        point(keys[i], id, targets[i])
    end
    redis.call('SET', keys[1], document, 'EX', life)
    return 'applied'
end

local answers, key, arg = {}, 2, 5
while arg <= #ARGV do
    local document, id, life, born, timeline, pointers, unreadable = unpack(ARGV, arg, arg + 6)
    local last = key + timeline + pointers
    answers[#answers + 1] = write({unpack(KEYS, key, last)}, document, id, life, born, timeline == '1', unreadable)
    key, arg = last + 1, arg + 7
end
return answers
