-- Writes documents with their indexes and TTL, atomically.
--
-- A document's revision is a sequence of stamps of equal width. A document is written if none of its
-- stamps is smaller than the stored one's, and stale if none is greater. Otherwise it is merged with
-- the stored document: here if that is simple, else the stored document is returned, and the caller
-- merges and writes again. So no stamp of a stored document ever decreases.
--
-- This script cuts documents by the text and ORDER of their JSON members, which it does not parse:
--   every document begins with  "revision","instance","account_id","inbox_id";
--   the first "source_id" of a message is its own, and followed by "message_type";
--   a message continues, behind its attributes, with exactly
--   "private","deleted","status","created_at","updated_at","sender", and holds no other open object.
-- When a member of `Message` or `Conversation` is added or moved, check the patterns in `revision_of`,
-- `cut` and `has_same_source` here, and in `erase_documents.lua`; a test compares them with the members.
--
-- KEYS[1]  version of the bindings
-- KEYS     then the key of each document, then all pointers, then all timelines, in document order
-- ARGV[1]  digits of a stamp
-- ARGV[2]  TTL in seconds of documents and indexes; older events create no document
-- ARGV[3]  TTL of a tombstone in seconds
-- ARGV[4]  length limit of a timeline
-- ARGV[5]  version of the bindings by which the documents were resolved, or '*' for any
-- ARGV[6]  revisions of unreadable stored documents that are to be replaced: ',a,b,' or ','
-- ARGV[7]  JSON array of four numbers per document: its id; its number of pointers; 1 or 0 timelines;
--          the time of its newest event in milliseconds, -1 for a tombstone, whose age is not checked
-- ARGV     then the documents
--
-- Returns for each document 'applied', 'stale', 'wrong_type', or the stored document.
-- Returns 'outdated', and writes nothing, if the bindings have another version.

local call, pcall = redis.call, redis.pcall
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local width, ttl, tombstone_ttl, length = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local version, unreadable, numbers = ARGV[5], ARGV[6], cjson.decode(ARGV[7])
local FIRST_DOCUMENT = 8

-- Checked in the script that writes, so that a delayed worker cannot write to a former instance.
if version ~= '*' and (call('GET', KEYS[1]) or '') ~= version then
    return 'outdated'
end

local oldest_ms = (call('TIME')[1] - ttl) * 1000

local HEAD = '{"revision":"'
local FIRST = #HEAD + 1
local ONE, CLOSING_BRACE = byte('1}', 1, 2)

-- Returns the revision of a stored document; nil if it is not a complete document of ours, or of
-- another account, whose documents are replaced. `closing` is the end of our document's revision.
-- Instance, account and the start of `inbox_id` are compared as text: no JSON string contains an
-- unescaped quote, so a name cannot imitate the members behind it.
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

-- Returns whether any stamp of `mine` is greater, and whether any of `theirs` is.
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

-- Cuts a message around its status and `updated_at`. The greedy first part skips `content_attributes`,
-- the last member in which users can choose names.
local function cut(message)
    return string.match(
        message,
        '^(.*,"private":%l+,"deleted":%l+,"status":)(.-)(,"created_at":.-,"updated_at":)(.-)(,"sender":.*)$'
    )
end

-- Returns a message with the body of one message and the status of another.
local function splice(body, status, revision)
    local before, _, created, _, after = cut(body)
    local _, value, _, time = cut(status)
    if before and value then
        local head = HEAD .. revision
        return head .. sub(before, #head + 1) .. value .. created .. time .. after
    end
end

-- Returns whether a stored message has the source id of our document.
local function has_same_source(stored, document, closing)
    local first = find(document, ',"source_id":', closing, true)
    local last = find(document, ',"message_type":', first, true)
    local from = find(stored, ',"source_id":', closing, true)
    return from and sub(stored, from, from + last - first) == sub(document, first, last)
end

local function stamps(revision)
    return sub(revision, 1, width), sub(revision, width + 1, 2 * width), sub(revision, 2 * width + 1)
end

-- Merges messages of which each has a greater stamp: an update of a message that is not its
-- conversation's latest, or one whose source id is known from its creation. Returns nil where the
-- newer body has another source id than the one that stays, which also needs another pointer.
local function merge(document, stored, mine, theirs, closing)
    if #mine ~= 3 * width then
        return nil
    end
    local body, status, source = stamps(mine)
    local their_body, their_status, their_source = stamps(theirs)
    local is_newer = body >= their_body
    if source ~= their_source and not (is_newer and source > their_source)
        and not has_same_source(stored, document, closing) then
        return nil
    end
    local revision = (is_newer and body or their_body)
        .. (status > their_status and status or their_status)
        .. (source > their_source and source or their_source)
    local newer, other = document, stored
    if not is_newer then
        newer, other = stored, document
    end
    if status == their_status or (status > their_status) == is_newer then
        return HEAD .. revision .. sub(newer, closing)
    end
    return splice(newer, other, revision)
end

-- Returns the document to write, or nil and the reply.
local function resolve(stored, document, event_ms)
    local closing = stored and find(document, '"', FIRST, true)
    local theirs = stored and revision_of(stored, document, closing)
    if not theirs then
        if event_ms >= 0 and event_ms < oldest_ms then
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
    return merge(document, stored, mine, theirs, closing), stored
end

local WRONG_TYPE = {}

-- Marks keys that hold a value of another type among those for which MGET returned nothing.
local function mark_wrong_types(missing, values)
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

-- Reads KEYS[from] to KEYS[to] into `values` with one MGET; false where there is no value.
local function read(from, to, values)
    if from > to then
        return
    end
    local found, missing = call('MGET', unpack(KEYS, from, to)), {}
    for i = 1, #found do
        values[from + i - 1] = found[i]
        missing[#missing + 1] = not found[i] and from + i - 1 or nil
    end
    mark_wrong_types(missing, values)
end

-- Returns the id in a pointer, 0 if there is none; tonumber() alone would accept 'inf' and '0x7'.
local function pointer_id(value)
    return #value <= 16 and find(value, '^%d+$') and tonumber(value) or 0
end

-- The ids that this call has written to pointers.
local written_ids = {}

-- Raises a pointer to an id, and renews its TTL.
local function raise_pointer(key, value, id)
    local greatest = written_ids[key] or value and pointer_id(value)
    if greatest and greatest >= id then
        call('EXPIRE', key, ttl)
    else
        call('SET', key, id, 'EX', ttl)
        written_ids[key] = id
    end
end

-- Adds an id to a timeline, and renews its TTL; returns false if the key has another type.
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

local memory_checked = false

-- Fails with OOM if memory is full, by a SET that changes nothing. The server checks memory only at a
-- script's first write, and not if that is EXPIRE; all later writes would then be allowed.
local function check_memory(key, stored)
    if not memory_checked then
        call('SET', key, '', stored and 'NX' or 'XX')
        memory_checked = true
    end
end

-- Writes a document, or nothing of it if one of its keys has another type. The document comes last:
-- if the script fails before, the next attempt writes it with its indexes.
local function write(values, number, pointer, last_pointer, timeline, id, event_ms)
    local key, stored = KEYS[1 + number], values[1 + number]
    if stored == WRONG_TYPE then
        return 'wrong_type'
    end
    local document, reply = resolve(stored, ARGV[FIRST_DOCUMENT - 1 + number], event_ms)
    if not document then
        return reply
    end
    for i = pointer, last_pointer do
        if values[i] == WRONG_TYPE then
            return 'wrong_type'
        end
    end

    check_memory(key, stored)
    if timeline and not append(KEYS[timeline], id) then
        return 'wrong_type'
    end
    for i = pointer, last_pointer do
        raise_pointer(KEYS[i], values[i], id)
    end
    -- The revision of a deleted message begins with 1.
    local is_tombstone = timeline and byte(document, FIRST) == ONE
    call('SET', key, document, 'EX', is_tombstone and tombstone_ttl or ttl)
    return 'applied'
end

local documents, pointers = #numbers / 4, 0
for i = 2, #numbers, 4 do
    pointers = pointers + numbers[i]
end
local pointer, timeline = 2 + documents, 2 + documents + pointers

-- Documents are read in chunks: each chunk is in the server's memory at once, and Lua's unpack() has
-- a limit.
local CHUNK = 50
local replies = {}
for first = 1, documents, CHUNK do
    local last, next_pointer = math.min(first + CHUNK - 1, documents), pointer
    for i = first, last do
        next_pointer = next_pointer + numbers[4 * i - 2]
    end
    local values = {}
    read(1 + first, 1 + last, values)
    read(pointer, next_pointer - 1, values)
    for number = first, last do
        local id, pointer_count, timeline_count, event_ms = unpack(numbers, 4 * number - 3, 4 * number)
        replies[number] = write(
            values, number, pointer, pointer + pointer_count - 1,
            timeline_count == 1 and timeline, id, event_ms
        )
        pointer = pointer + pointer_count
        timeline = timeline + timeline_count
    end
end
return replies
