-- Adds rows of a spool to the stream, and records the last one that was added: one step.
--
-- A caller that lost a reply, was killed before it deleted the rows, or reads them beside another
-- caller adds none twice: it does not know the record, and is told.
--
-- KEYS[1]  the stream          KEYS[2]  the record: the position of the last row that was added
-- ARGV[1]  what the caller takes the record to be, empty for none
-- ARGV[2]  seconds that the record lives from now on
-- then for each row: its position, how many arguments follow, the entry's fields and values
--
-- Answers: the record, and how many rows were added. None are, where the record is not ARGV[1].
-- Rows behind one that the server refuses are not added; the first row's refusal is the answer.

local last = redis.call('GET', KEYS[2]) or ''
if last ~= ARGV[1] or #ARGV == 2 then
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    return {last, 0}
end
-- Before the first row: what forbids this write (memory, rights) must not leave a row unrecorded.
redis.call('SET', KEYS[2], last, 'EX', ARGV[2])
local added, arg = 0, 3
while arg <= #ARGV do
    local count = tonumber(ARGV[arg + 1])
    local reply = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, arg + 2, arg + 1 + count))
    if type(reply) == 'table' and reply.err then
        if added == 0 then
            return reply
        end
        break
    end
    last, added = ARGV[arg], added + 1
    arg = arg + 2 + count
end
redis.call('SET', KEYS[2], last, 'EX', ARGV[2])
return {last, added}
