-- Trims entries that every group has acknowledged and that are older than the retention; beyond the
-- maximum number of entries also younger ones, and finally unacknowledged ones.
-- One call trims a limited number: call until it trims none.
--
-- KEYS[1]  the stream
-- ARGV[1]  the consumer group  ARGV[2]  seconds an entry is kept
-- ARGV[3]  most entries kept, 0 for no limit          ARGV[4]  most entries trimmed in one call
--
-- Returns: entries trimmed; those of them that our group had not read; the other group that
-- keeps entries beyond the retention because it has not acknowledged them, '' when none does.

local key, group, step = KEYS[1], ARGV[1], tonumber(ARGV[4])
local most = tonumber(ARGV[3])

-- Ids are compared as numbers of 64 bits, which Lua does not have.
local function is_less(a, b)
    local a_ms, a_seq = a:match('^(%d+)-(%d+)$')
    local b_ms, b_seq = b:match('^(%d+)-(%d+)$')
    if a_ms == b_ms then
        a_ms, b_ms = a_seq, b_seq
    end
    if #a_ms ~= #b_ms then
        return #a_ms < #b_ms
    end
    return a_ms < b_ms
end

-- The least id that a group still needs; the last one it settled is kept, as the witness of
-- create_group.lua.
local needed, needed_by, delivered = nil, '', nil
for _, row in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local of = {}
    for i = 1, #row, 2 do
        of[row[i]] = row[i + 1]
    end
    local least = of['last-delivered-id']
    if of.name == group then
        delivered = least
    end
    if of.pending > 0 then
        local oldest = redis.call('XPENDING', key, of.name)[2]
        least = is_less(oldest, least) and oldest or least
    end
    if not needed or is_less(least, needed) then
        needed, needed_by = least, of.name
    end
end
if not delivered then
    return redis.error_reply('NOGROUP the consumer group is gone')
end

local now = redis.call('TIME')
local oldest = string.format('%.0f-0', math.max(0, now[1] - ARGV[2]) * 1000 + math.floor(now[2] / 1000))
local held_by = ''
if is_less(needed, oldest) then
    local first = redis.call('XRANGE', key, '(' .. needed, '(' .. oldest, 'COUNT', 1)
    held_by = #first > 0 and needed_by ~= group and needed_by or ''
    oldest = needed
end

-- XRANGE copies the entries, so few of them are counted at a time.
local function count(last, at_most)
    return #redis.call('XRANGE', key, '-', last, 'COUNT', at_most)
end

-- Whole nodes first, which is cheap and can be limited; then the rest of a node by number: within
-- a node Redis 6.2 compares ids cut to 32 bits, and would trim young entries.
local trimmed = redis.call('XTRIM', key, 'MINID', '~', oldest, 'LIMIT', step)
if trimmed == 0 and oldest ~= '0-0' then
    local old = count('(' .. oldest, step / 10)
    trimmed = old > 0 and redis.call('XTRIM', key, 'MAXLEN', redis.call('XLEN', key) - old) or 0
end

local excess = most > 0 and math.min(redis.call('XLEN', key) - most, step / 10) or 0
if trimmed > 0 or excess <= 0 then
    return {trimmed, 0, held_by}
end
local read = delivered == '0-0' and 0 or count(delivered, excess)
return {redis.call('XTRIM', key, 'MAXLEN', redis.call('XLEN', key) - excess), excess - read, held_by}
