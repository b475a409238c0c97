-- worker/store/write.lua of release 0.1.0, unchanged below this line.
-- Writes documents, each with its index and its time to live, in one step.
--
-- A document's revision is a row of stamps of equal width. A document is written when none of its
-- stamps is smaller than the stored one's, is stale when none is greater, and otherwise merged with
-- the stored one: here where that is simple, else the stored one is handed back, to be merged and
-- sent again. So what is stored only ever grows, whoever writes.
--
-- KEYS[1]  the version of the bindings
-- KEYS     then each document's own key, then all pointers, then all timelines, document by document
-- ARGV[1]  digits of a stamp
-- ARGV[2]  time to live in seconds: also of indexes, and the age beyond which nothing is created
-- ARGV[3]  time to live of a tombstone in seconds
-- ARGV[4]  members of a timeline
-- ARGV[5]  the version of the bindings that say where the documents belong, or '*' for any
-- ARGV[6]  revisions of stored documents that cannot be read and are to be replaced: ',a,b,' or ','
-- ARGV[7]  four numbers for each document, as a JSON array: its id; how many pointers it has; 1 or 0
--          for a timeline; the time of its newest event in milliseconds, -1 for a tombstone, whose
--          age does not matter
-- ARGV     then the documents
--
-- Answers for each document: 'applied', 'stale', 'wrong_type', or the stored document.
-- Answers 'outdated', and writes nothing, where the bindings are of another version.

local call, pcall = redis.call, redis.pcall
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local width, ttl, tombstone_ttl, length = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local version, unreadable, about = ARGV[5], ARGV[6], cjson.decode(ARGV[7])
local FIRST_DOCUMENT = 8

-- In the step that writes, so that no worker, however long it slept, writes where an inbox was.
if version ~= '*' and (call('GET', KEYS[1]) or '') ~= version then
    return 'outdated'
end

local oldest = (call('TIME')[1] - ttl) * 1000

local HEAD = '{"revision":"'
local FIRST = #HEAD + 1
local ONE, CLOSING_BRACE = byte('1}', 1, 2)

-- Returns the revision of a stored document, nil when it is none of ours, or not whole, or another
-- account's: what that left under the same name is no state of this document.
-- What follows the revision in ours, up to the account, says whose it is: no name in JSON can end
-- that early. `closing` is where the revision of ours ends.
local function revision_of(stored, document, closing)
    local revision = match(stored, '^{"revision":"(%d+)"')
    if not revision or #revision ~= closing - FIRST or byte(stored, -1) ~= CLOSING_BRACE then
        return nil
    end
    local last = find(document, ',"inbox_id":', closing, true)
    if sub(stored, closing, last) == sub(document, closing, last)
        and (unreadable == ',' or not find(unreadable, ',' .. revision .. ',', 1, true)) then
        return revision
    end
end

-- Says whether any stamp of `mine` is greater, and whether any of `theirs` is.
local function compare(mine, theirs)
    if #mine == width then
        return mine > theirs, mine < theirs
    end
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
    local closing = stored and find(document, '"', FIRST, true)
    local theirs = stored and revision_of(stored, document, closing)
    if not theirs then
        if born >= 0 and born < oldest then
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

local WRONG_TYPE = {}

-- Tells keys that hold a value of another type from those that are not there.
local function tell_apart(missing, values)
    local keys = {}
    for i = 1, #missing do
        keys[i] = KEYS[missing[i]]
    end
    if #keys == 0 or call('EXISTS', unpack(keys)) == 0 then
        return
    end
    for i = 1, #keys do
        if call('EXISTS', keys[i]) == 1 then
            values[missing[i]] = WRONG_TYPE
        end
    end
end

-- Reads many strings at once, which costs a fraction of one at a time; false where there is none.
local function read(from, to, values)
    if from > to then
        return
    end
    local some, missing = call('MGET', unpack(KEYS, from, to)), {}
    for i = 1, #some do
        values[from + i - 1] = some[i]
        missing[#missing + 1] = not some[i] and from + i - 1 or nil
    end
    tell_apart(missing, values)
end

-- Returns the id that a pointer holds, 0 where that is no id: Lua takes 'inf' and '0x7' for numbers.
local function id_in(held)
    return #held <= 16 and find(held, '^%d+$') and tonumber(held) or 0
end

-- What this batch let pointers hold.
local pointed = {}

-- Lets a pointer hold the greatest id, and renews it.
local function point(key, value, id)
    local greatest = pointed[key] or value and id_in(value)
    if greatest and greatest >= id then
        call('EXPIRE', key, ttl)
    else
        call('SET', key, id, 'EX', ttl)
        pointed[key] = id
    end
end

-- Adds an id to a timeline, and renews it; says whether it is of the right type.
local function append(key, id)
    local added = pcall('ZADD', key, id, id)
    if type(added) == 'table' then
        if find(added.err, 'WRONGTYPE', 1, true) then
            return false
        end
        error(added.err)
    end
    if added == 1 then
        call('ZREMRANGEBYRANK', key, 0, -length - 1)
    end
    call('EXPIRE', key, ttl)
    return true
end

local has_room = false

-- Fails where memory is full, by a SET that changes nothing. The server asks that of a script's
-- first write alone, and never where that is EXPIRE: then all the others would be let through.
local function ask_for_room(key, stored)
    if not has_room then
        call('SET', key, '', stored and 'NX' or 'XX')
        has_room = true
    end
end

-- Writes a document, or nothing of it where one of its keys is of another type. The document comes
-- last: where the script fails before, it is written again, index and all.
local function write(held, number, pointer, last_pointer, timeline, id, born)
    local key, stored = KEYS[1 + number], held[1 + number]
    if stored == WRONG_TYPE then
        return 'wrong_type'
    end
    local text, answer = judge(stored, ARGV[FIRST_DOCUMENT - 1 + number], born)
    if not text then
        return answer
    end
    for i = pointer, last_pointer do
        if held[i] == WRONG_TYPE then
            return 'wrong_type'
        end
    end

    ask_for_room(key, stored)
    if timeline and not append(KEYS[timeline], id) then
        return 'wrong_type'
    end
    for i = pointer, last_pointer do
        point(KEYS[i], held[i], id)
    end
    -- A message's revision begins with 1 where it is deleted.
    local is_tombstone = timeline and byte(text, FIRST) == ONE
    call('SET', key, text, 'EX', is_tombstone and tombstone_ttl or ttl)
    return 'applied'
end

local documents, pointers = #about / 4, 0
for i = 2, #about, 4 do
    pointers = pointers + about[i]
end
local pointer, timeline = 2 + documents, 2 + documents + pointers

-- So many documents at a time: what is read at once lies in the server's memory at once, and a
-- command takes a bounded number of keys from Lua.
local PORTION = 50
local answers = {}
for first = 1, documents, PORTION do
    local last, next_pointer = math.min(first + PORTION - 1, documents), pointer
    for i = first, last do
        next_pointer = next_pointer + about[4 * i - 2]
    end
    local held = {}
    read(1 + first, 1 + last, held)
    read(pointer, next_pointer - 1, held)
    for number = first, last do
        local id, of_pointers, of_timelines, born = unpack(about, 4 * number - 3, 4 * number)
        answers[number] = write(
            held, number, pointer, pointer + of_pointers - 1, of_timelines == 1 and timeline, id, born
        )
        pointer = pointer + of_pointers
        timeline = timeline + of_timelines
    end
end
return answers
