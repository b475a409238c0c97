-- Writes documents, each with its index and its time to live, in one step.
--
-- A document's revision is a row of stamps of equal width. A document is written when none of its
-- stamps is smaller than the stored one's, is stale when none is greater, and otherwise merged with
-- the stored one: here where that is simple, else the stored one is handed back, to be merged and
-- sent again. So what is stored only ever grows, whoever writes.
--
-- KEYS[1]  the version of the bindings
-- KEYS     then for each document: its own key, its timeline (if it has one), its pointers
-- ARGV[1]  digits of a stamp
-- ARGV[2]  time to live in seconds: also of indexes, and the age beyond which nothing is created
-- ARGV[3]  time to live of a tombstone in seconds
-- ARGV[4]  members of a timeline
-- ARGV[5]  the version of the bindings that say where the documents belong, or '*' for any
-- ARGV[6]  revisions of stored documents that cannot be read and are to be replaced: ',a,b,' or ','
-- then for each document:
--   the document; its id; 1 or 0 for a timeline; the number of pointers;
--   the time of its newest event in milliseconds, or '' for a tombstone, whose age does not matter
--
-- Answers for each document: 'applied', 'stale', 'wrong_type', or the stored document.
-- Answers 'outdated', and writes nothing, where the bindings are of another version.

local call, pcall, sub, find = redis.call, redis.pcall, string.sub, string.find
local width, ttl, tombstone_ttl, length = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local version, unreadable = ARGV[5], ARGV[6]

-- In the step that writes, so that no worker, however long it slept, writes where an inbox was.
if version ~= '*' and (call('GET', KEYS[1]) or '') ~= version then
    return 'outdated'
end

local oldest = (call('TIME')[1] - ttl) * 1000

local HEAD = '{"revision":"'
local FIRST = #HEAD + 1

-- Returns a reply, and whether the key holds a value of another type instead.
local function typed(reply)
    if type(reply) ~= 'table' then
        return reply, false
    end
    if find(reply.err, 'WRONGTYPE', 1, true) then
        return nil, true
    end
    error(reply.err)
end

-- Returns the revision of a stored document, nil when it is none of ours, or not whole, or another
-- account's: what that left under the same name is no state of this document.
-- What follows the revision in ours, up to the account, says whose it is: no name in JSON can end
-- that early. `closing` is where the revision of ours ends.
local function revision_of(stored, document, closing)
    local owner = sub(document, closing, find(document, ',"inbox_id":', closing, true))
    local is_ours = sub(stored, 1, #HEAD) == HEAD
        and sub(stored, closing, closing + #owner - 1) == owner
        and sub(stored, -1) == '}'
    local revision = is_ours and sub(stored, FIRST, closing - 1)
    if revision and not find(revision, '%D') and not find(unreadable, ',' .. revision .. ',', 1, true) then
        return revision
    end
end

-- Says whether any stamp of `mine` is greater, and whether any of `theirs` is.
local function compare(mine, theirs)
    local ahead, behind = false, false
    for from = 1, #mine, width do
        local a, b = sub(mine, from, from + width - 1), sub(theirs, from, from + width - 1)
        ahead = ahead or a > b
        behind = behind or a < b
    end
    return ahead, behind
end

-- Cuts a message around its status and the status' time. No text in JSON holds a quote that is not
-- escaped, and behind the attributes, whose names are anybody's, all names are ours.
local function cut(message)
    return string.match(
        message,
        '^(.*,"private":%l+,"deleted":%l+,"status":)(.-)(,"created_at":.-,"updated_at":)(.-)(,"sender":.*)$'
    )
end

-- Returns the message whose body is the one's and whose status is the other's.
local function joined(body, status, revision)
    local before, _, created, _, after = cut(body)
    local _, value, _, time = cut(status)
    if before and value then
        local head = HEAD .. revision
        return head .. sub(before, #head + 1) .. value .. created .. time .. after
    end
end

-- Merges a message with the stored one where only body and status are of two minds: that is what
-- an update brings whose message is not its conversation's latest. Nil where it is not that simple.
local function merged(document, stored, mine, theirs)
    if #mine ~= 3 * width then
        return nil
    end
    local body, status = sub(mine, 1, width), sub(mine, width + 1, 2 * width)
    local their_body, their_status = sub(theirs, 1, width), sub(theirs, width + 1, 2 * width)
    local source, their_source = sub(mine, 2 * width + 1), sub(theirs, 2 * width + 1)
    if body > their_body and status < their_status and source >= their_source then
        return joined(document, stored, body .. their_status .. source)
    end
    if body < their_body and status > their_status and source == their_source then
        return joined(stored, document, their_body .. status .. source)
    end
end

-- Decides what becomes of a document: returns what is to be written, or nil and the answer.
local function judge(stored, document, born)
    local closing = find(document, '"', FIRST, true)
    local theirs = stored and revision_of(stored, document, closing)
    if not theirs then
        if born ~= '' and tonumber(born) < oldest then
            return nil, 'stale'
        end
        return document
    end
    local mine = sub(document, FIRST, closing - 1)
    local ahead, behind = compare(mine, theirs)
    if not ahead then
        return nil, 'stale'
    end
    if not behind then
        return document
    end
    return merged(document, stored, mine, theirs), stored
end

-- Returns the id that a pointer holds, 0 where that is no id: Lua takes 'inf' and '0x7' for numbers.
local function id_in(held)
    return held and #held <= 16 and find(held, '^%d+$') and tonumber(held) or 0
end

-- Renews a pointer, which holds the greatest id; says whether ours is greater, and whether its key
-- holds a value of another type instead.
local function renew(key, id)
    local held, wrong = typed(pcall('GETEX', key, 'EX', ttl))
    return id_in(held) < tonumber(id), wrong
end

-- Adds an id to a timeline, and renews it; says whether its key is of another type.
local function append(key, id)
    local added, wrong = typed(pcall('ZADD', key, id, id))
    if wrong then
        return true
    end
    if added == 1 then
        call('ZREMRANGEBYRANK', key, 0, -length - 1)
    end
    call('EXPIRE', key, ttl)
    return false
end

local has_room = false

-- Fails where memory is full, by a SET that changes nothing. The server asks that of a script's
-- first write alone, and never where that is GETEX: then all the others would be let through.
local function ask_for_room(key, stored)
    if not has_room then
        call('SET', key, '', stored and 'NX' or 'XX')
        has_room = true
    end
end

-- Writes a document and its index, once every key is known to be of the right type.
local function write(key, document, id, timelines, pointers, born)
    local stored, wrong = typed(pcall('GET', KEYS[key]))
    if wrong then
        return 'wrong_type'
    end
    local text, answer = judge(stored, document, born)
    if not text then
        return answer
    end

    ask_for_room(KEYS[key], stored)
    local last, ahead = key + timelines + pointers, {}
    for i = last - pointers + 1, last do
        ahead[i], wrong = renew(KEYS[i], id)
        if wrong then
            return 'wrong_type'
        end
    end
    if timelines == 1 and append(KEYS[key + 1], id) then
        return 'wrong_type'
    end
    for i = last - pointers + 1, last do
        if ahead[i] then
            call('SET', KEYS[i], id, 'EX', ttl)
        end
    end
    -- A message's revision begins with 1 where it is deleted.
    local is_tombstone = timelines == 1 and sub(text, FIRST, FIRST) == '1'
    call('SET', KEYS[key], text, 'EX', is_tombstone and tombstone_ttl or ttl)
    return 'applied'
end

local answers, key = {}, 2
for arg = 7, #ARGV, 5 do
    local timelines, pointers = tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
    answers[#answers + 1] = write(key, ARGV[arg], ARGV[arg + 1], timelines, pointers, ARGV[arg + 4])
    key = key + 1 + timelines + pointers
end
return answers
