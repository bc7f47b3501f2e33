-- Writes a customer's entitlements, metadata and usages, each key only if nothing newer is stored. Entitlements and
-- metadata are one piece, the list: both are written, or none. (A reader may have written newer entitlements and, as
-- SDK 3.x, no metadata; or an empty list with the far-past mark, beside metadata that tell when it became empty.)
--
-- KEYS  locks …, purge marks …, then (key, timestamp key) a write, the customer key first
-- ARGV  1 number of locks   2 number of purge marks   3 '1': skip if no key of the customer is stored (UPDATE_IF_EXISTS)
--       4 expiry in seconds, '' for none   5 when the message was sent (epoch ms)
--       6 number of writes, from the first, that are the list   7 a purge mark's expiry in seconds
--       then (timestamp, value) a write
-- Returns {status, keys written, keys skipped as stale}; status: see the constants in scripts.rs.
local locks, marks = tonumber(ARGV[1]), tonumber(ARGV[2])
local first = locks + marks
local writes = (#KEYS - first) / 2

-- One MGET (in slices: unpack has a limit) for all that decides: locks, marks, stored timestamps.
local asked = {}
for i = 1, first do asked[i] = KEYS[i] end
for i = 1, writes do asked[first + i] = KEYS[first + 2 * i] end
local stored = {}
for from = 1, #asked, 4000 do
    local to = math.min(from + 3999, #asked)
    local values = redis.call('MGET', unpack(asked, from, to))
    for i = 1, #values do stored[from + i - 1] = values[i] end
end

for i = 1, locks do
    if stored[i] then return {1, 0, 0} end
end
-- A purge was sent after this message (or in the same millisecond): this is late news of what was purged.
-- Whatever is stored now was asked for after the purge, and knows more. Not so a resource's entry after a purge of
-- its customer (the third mark), which leaves that entry in place: it is compared as ever.
-- Late news as well is a list that is older than one that its own mark (the second) knows to have been forgotten.
local sent_at, list, list_at = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8])
local own = locks + 2
local own_purged, own_forgotten
local is_stored = (stored[first + 1] and tonumber(stored[first + 1]) or 0) > 0
for i = locks + 1, first do
    local purged, forgotten = string.match(stored[i] or '', '^(%d+):?(%d*)$')
    local spares = i == locks + 3 and is_stored
    if purged and tonumber(purged) >= sent_at and not spares then
        -- A resource's entry with the far-past mark may be from before its customer's purge or from after it, so
        -- this may be news or not: the next reader shall ask.
        if i == locks + 3 and stored[first + 1] then
            for j = first + 1, first + 2 * list do redis.call('DEL', KEYS[j]) end
        end
        return {3, 0, 0}
    end
    if i == own then own_purged, own_forgotten = purged, tonumber(forgotten) or 0 end
end
if own_purged and own_forgotten > list_at and list_at ~= 0 then return {3, 0, 0} end
if ARGV[3] == '1' then
    local known = false
    for i = 1, writes do
        if stored[first + i] and tonumber(stored[first + i]) then
            known = true
            break
        end
    end
    -- A customer key that lost its timestamp (evicted by a full Redis, say) is still read by SDK 3.x: it must not
    -- be left as it is.
    if not known and redis.call('EXISTS', KEYS[first + 1]) == 0 then
        -- A purge leaves usages, so an older list, with a feature whose usage is stored, would pass here after this
        -- one did not.
        if own_purged and list_at > own_forgotten then
            redis.call('SET', KEYS[own], own_purged .. ':' .. ARGV[8], 'EX', ARGV[7])
        end
        return {2, 0, 0}
    end
end

local function is_newer(i, timestamp)
    local before = stored[first + i] and tonumber(stored[first + i])
    return before and before > timestamp and timestamp ~= 0
end
local list_is_stale = false
for i = 1, list do list_is_stale = list_is_stale or is_newer(i, list_at) end

local written, stale = 0, 0
local expiry = ARGV[4]
for i = 1, writes do
    local timestamp, value = ARGV[6 + 2 * i], ARGV[7 + 2 * i]
    if (i <= list and list_is_stale) or (i > list and is_newer(i, tonumber(timestamp))) then
        stale = stale + 1
    else
        local key, timestamp_key = KEYS[first + 2 * i - 1], KEYS[first + 2 * i]
        if expiry == '' then
            redis.call('MSET', key, value, timestamp_key, timestamp)
        else
            redis.call('SET', key, value, 'EX', expiry)
            redis.call('SET', timestamp_key, timestamp, 'EX', expiry)
        end
        written = written + 1
    end
end
return {0, written, stale}
