-- Writes a customer's entitlements, metadata and usages, each key only if nothing newer is stored.
--
-- KEYS  locks …, purge marks …, then (key, timestamp key) a write, the customer key first
-- ARGV  1 number of locks   2 number of purge marks   3 '1': skip if no key of the customer is stored (UPDATE_IF_EXISTS)
--       4 expiry in seconds, '' for none   5 when the message was sent (epoch ms)   then (timestamp, value) a write
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
local sent_at = tonumber(ARGV[5])
local is_stored = (stored[first + 1] and tonumber(stored[first + 1]) or 0) > 0
for i = locks + 1, first do
    local mark = stored[i] and tonumber(stored[i])
    local spares = i == locks + 3 and is_stored
    if mark and mark >= sent_at and not spares then return {3, 0, 0} end
end
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
    if not known and redis.call('EXISTS', KEYS[first + 1]) == 0 then return {2, 0, 0} end
end

local written, stale = 0, 0
local expiry = ARGV[4]
for i = 1, writes do
    local timestamp, value = ARGV[4 + 2 * i], ARGV[5 + 2 * i]
    local before = stored[first + i] and tonumber(stored[first + i])
    if before and before > tonumber(timestamp) and tonumber(timestamp) ~= 0 then
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
