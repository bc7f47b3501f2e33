-- Applies changes to the cache, in the order given and in one atomic step. A change is decided by what is stored and by what
-- the changes before it in the same call wrote. Each runs under pcall: one that fails does not stop the others.
--
-- KEYS  the deciding keys of each change, read with one MGET, then the other keys of each change (`script.rs` has both)
-- ARGV  1 number of deciding keys      2 expiry of written keys in seconds, '' for none
--       3 '1' for UPDATE_IF_EXISTS     4 '1' for a dry run: nothing is written
--       5 expiry of a tombstone in s   6 now, epoch ms
--       then for each change its kind (a name in `changes` below) and its arguments
-- Returns {status, written, stale} for each change in one flat array: the number of keys written, and of keys left because
--       something newer is stored; in a dry run, lists of these keys. For a change that failed: {FAILED, error, 0}.
--
-- A tombstone is '<when the last purge was sent>[:<timestamp of the newest list that it deleted>]'.
-- A balance record is '<timestamp of the credit usage beside it>,<timestamp of the usage that its period is from>,
-- <timestamp of the balance>,<1 if it is exhausted, else 0>,<validUntil>'; unknown parts are empty.
local APPLIED, LOCKED, NOT_CACHED, PURGED_LATER, NO_CUSTOMER, ADJUST_LIST, CONFLICT, FAILED = 0, 1, 2, 3, 4, 5, 6, 9
local call, deciding, expiry = redis.call, tonumber(ARGV[1]), ARGV[2]
local update_if_exists, dry_run, tombstone_secs, now = ARGV[3] == '1', ARGV[4] == '1', ARGV[5], tonumber(ARGV[6])
local stored = deciding > 0 and call('MGET', unpack(KEYS, 1, deciding)) or {}
local set_here = {} -- what this call has set, by key; false if deleted
local d, k, a = 1, deciding + 1, 7 -- the next change's first deciding key, other key and argument
local written, stale

local function read(index)
    local value = set_here[KEYS[index]]
    if value == nil then return stored[index] end
    return value
end

local function exists(key)
    if set_here[key] ~= nil then return set_here[key] and true end
    return call('EXISTS', key) == 1
end

-- The timestamp at this index; nil if there is none or it is not a number.
local function time_at(index)
    local value = read(index)
    return value and tonumber(value)
end

-- True if something newer than `timestamp` is stored. 0 is the far-past marker that readers write: it replaces anything.
local function is_newer(index, timestamp)
    local at = time_at(index)
    return at and at > timestamp and timestamp ~= 0
end

local function is_locked(first, count)
    for index = first, first + count - 1 do
        if read(index) then return true end
    end
end

local function count(key, is_written)
    if dry_run then
        local keys = is_written and written or stale
        keys[#keys + 1] = key
    elseif is_written then
        written = written + 1
    else
        stale = stale + 1
    end
end

local function set(key, value)
    set_here[key] = value
    if dry_run then return end
    if expiry == '' then call('SET', key, value) else call('SET', key, value, 'EX', expiry) end
end

-- Writes a value with its timestamp.
local function put(key, value, timestamp_key, timestamp)
    count(key, true)
    set(key, value)
    set(timestamp_key, timestamp)
end

local function delete(key)
    set_here[key] = false
    if not dry_run then call('DEL', key) end
end

local function read_tombstone(index)
    local purged, deleted = string.match(read(index) or '', '^(%d+):?(%d*)$')
    return purged, tonumber(deleted) or 0
end

local function set_tombstone(key, purged, deleted)
    local value = purged
    if deleted > 0 then value = string.format('%s:%.0f', purged, deleted) end
    set_here[key] = value
    if not dry_run then call('SET', key, value, 'EX', tombstone_secs) end
end

local function credit_json(usage, from, to, has_next_reset_date)
    local json = '{"currentUsage":' .. usage
    if from ~= '' then json = json .. ',"usagePeriodStart":' .. from end
    if to ~= '' then json = json .. ',"usagePeriodEnd":' .. to end
    if to ~= '' and has_next_reset_date then json = json .. ',"nextResetDate":' .. to end
    return json .. '}'
end

-- Writes the usage of a credit currency. Usage, period and balance are each the newest that was seen, in whatever order
-- messages come: one without a period keeps the stored period, and one older than the stored usage may still bring the period.
-- Deciding keys from `first`: timestamp, value, balance record. Arguments from `arg`: timestamp, usage, period start and end
-- ('' for none), '1' for nextResetDate; then, with `has_balance`: '1' exhausted, '0' not, '' unknown, and validUntil.
-- Returns true if the balance is the newest that was seen.
local function put_credit(first, arg, has_balance)
    local timestamp, usage, from, to = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
    local has_next_reset_date = ARGV[arg + 4] == '1'
    local at, before, key, record_key = tonumber(timestamp), read(first + 1) or '', KEYS[first + 1], KEYS[first + 2]
    local value_at, period_at, balance_at, exhausted, valid_until =
        string.match(read(first + 2) or '', '^(%d*),(%d*),(%d*),(%d?),(%-?%d*)$')
    local before_from = string.match(before, '"usagePeriodStart":(%d+)') or ''
    local before_to = string.match(before, '"usagePeriodEnd":(%d+)') or ''
    local stored_at = read(first) or ''
    if (value_at or '') ~= stored_at then -- written by a reader, or by an older version of this service
        period_at = before_from .. before_to ~= '' and stored_at or ''
    end
    local has_period = from .. to ~= ''
    if not is_newer(first, at) then
        if has_period then period_at = timestamp else from, to = before_from, before_to end
        put(key, credit_json(usage, from, to, has_next_reset_date), KEYS[first], timestamp)
        stored_at = timestamp
    else
        count(key, false)
        usage = string.match(before, '"currentUsage":(%-?[%d%.eE+-]+)')
        if has_period and usage and at > (tonumber(period_at) or -1) then
            set(key, credit_json(usage, from, to, has_next_reset_date))
            set(KEYS[first], stored_at)
            period_at = timestamp
        end
    end
    local is_newest = has_balance and ARGV[arg + 5] ~= '' and at >= (tonumber(balance_at) or -1)
    if is_newest then
        balance_at, exhausted, valid_until = timestamp, ARGV[arg + 5], ARGV[arg + 6]
    end
    set(record_key, table.concat({ stored_at, period_at or '', balance_at or '', exhausted or '', valid_until or '' }, ','))
    return is_newest
end

-- A list or a balance that comes while an SDK refetches is written at once, and once more when the refetch has ended: an
-- SDK that gets no entitlements from Stigg replaces whatever is stored. `refetch` is 'again' for the first try, 'wait' for
-- those after it, which write only what is not yet stored, and '' where the lock does not matter. `index` is that of its
-- timestamp.
local function while_refetching(refetch, lock, index, timestamp, write)
    local is_held = refetch ~= '' and exists(lock)
    if is_held and refetch == 'wait' and (time_at(index) or -1) >= timestamp then return LOCKED end
    local status = write()
    return is_held and LOCKED or status
end

local changes = {}

-- A usage of a metered feature.
-- Deciding keys: write locks, K#timestamp, the usage's timestamp. Other keys: refetch lock, usage.
-- Arguments: number of locks, timestamp, value.
function changes.usage()
    local locks, timestamp, value = tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 3]
    local first, customer, own, refetch, key = d, d + locks, d + locks + 1, KEYS[k], KEYS[k + 1]
    d, k, a = d + locks + 2, k + 2, a + 4
    if is_locked(first, locks) then return LOCKED end
    if not read(customer) and not exists(refetch) then return NO_CUSTOMER end
    if is_newer(own, tonumber(timestamp)) then
        count(key, false)
    else
        put(key, value, KEYS[own], timestamp)
    end
    return APPLIED
end

-- A credit balance.
-- Deciding keys: write locks, K#timestamp, then those of put_credit. Other keys: refetch lock, K.
-- Arguments: number of locks, refetch, text in any list that has the credit's rate ('' if no list is adjusted), then those
-- of put_credit.
function changes.balance()
    local locks, refetch, credit_rate_text = tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 3]
    local first, customer, credit, arg, lock, key = d, d + locks, d + locks + 1, a + 4, KEYS[k], KEYS[k + 1]
    d, k, a = d + locks + 4, k + 2, a + 11
    if is_locked(first, locks) then return LOCKED end
    if not read(customer) and not exists(lock) then return NO_CUSTOMER end
    return while_refetching(refetch, lock, credit, tonumber(ARGV[arg]), function()
        if not put_credit(credit, arg, true) or credit_rate_text == '' then return APPLIED end
        local list_at = time_at(customer)
        local has_rate = list_at and list_at <= tonumber(ARGV[arg])
            and string.find(call('GET', key) or '', credit_rate_text, 1, true)
        return has_rate and ADJUST_LIST or APPLIED
    end)
end

-- A whole entitlement list, with metadata and usages.
-- Deciding keys: write locks, tombstones (environment, own, for a resource its customer's), K#timestamp, metadata's timestamp
-- if there are metadata, usages' timestamps, those of put_credit for each credit, balance records of credit rates.
-- Other keys: refetch lock, K, metadata, usages.
-- Arguments: number of locks, refetch, numbers of tombstones, usages, credits and credit rates; when the message was sent, or
-- Stigg was asked; '1' if Stigg was asked; timestamp; list; metadata ('' for none); (timestamp, value) of each usage; those of
-- put_credit for each credit.
function changes.entitlements()
    local locks, refetch, tombstones = tonumber(ARGV[a + 1]), ARGV[a + 2], tonumber(ARGV[a + 3])
    local usages, credits, rates = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
    local sent_at, is_from_edge_api, timestamp = tonumber(ARGV[a + 7]), ARGV[a + 8] == '1', ARGV[a + 9]
    local list, metadata, arg = ARGV[a + 10], ARGV[a + 11], a + 12
    local at, lists = tonumber(timestamp), metadata ~= '' and 2 or 1
    local first, environment, list_at = d, d + locks, d + locks + tombstones
    local usage_at, lock, key = list_at + lists, KEYS[k], k + 1
    local credit, rate = usage_at + usages, usage_at + usages + 3 * credits
    d, k, a = rate + rates, key + lists + usages, arg + 2 * usages + 5 * credits
    if is_locked(first, locks) then return LOCKED end

    -- If a purge was sent after this message, or at the same time, the message is out of order. So is one whose list is older
    -- than the list that its own tombstone recorded. A purge of the customer leaves a resource's list in place: a stored list,
    -- or one that is being refetched, is compared by timestamp. A stored list with the far-past marker may be older or newer than
    -- that purge, so it is deleted and the next reader asks Stigg.
    local own_purged, own_deleted = read_tombstone(environment + 1)
    local stored_at = time_at(list_at) or 0
    -- A redrive gives a message a new SentTimestamp: if nothing is stored to compare with, the list's own time counts too.
    if stored_at == 0 and at > 0 and not is_from_edge_api then sent_at = math.min(sent_at, at) end
    for index = environment, list_at - 1 do
        local purged = read_tombstone(index)
        local is_customers = index == environment + 2
        if purged and tonumber(purged) >= sent_at and not (is_customers and (stored_at > 0 or exists(lock))) then
            if is_customers and read(list_at) then
                for i = 0, lists - 1 do
                    delete(KEYS[key + i])
                    delete(KEYS[list_at + i])
                end
            end
            return PURGED_LATER
        end
    end
    if own_deleted > at and at ~= 0 and not is_from_edge_api then return PURGED_LATER end

    if update_if_exists then
        local is_cached
        for index = list_at, credit - 1 do is_cached = is_cached or time_at(index) end
        for index = credit, rate - 1, 3 do is_cached = is_cached or time_at(index) end
        -- SDK 3.x reads a customer key that lost its timestamp (by eviction, say), so that one is updated too.
        if not (is_cached or exists(KEYS[key]) or exists(lock)) then
            -- A purge keeps usages, so an older list of other features may find a usage of its own stored: the tombstone
            -- records how new the skipped list was.
            if own_purged and at > own_deleted then set_tombstone(KEYS[environment + 1], own_purged, math.min(at, now)) end
            return NOT_CACHED
        end
    end

    return while_refetching(refetch, lock, list_at, at, function()
        -- A reader may have written a newer list without metadata (SDK 3.x), or the far-past marker beside newer metadata.
        local is_stale = is_newer(list_at, at) or lists == 2 and is_newer(list_at + 1, at)
        if is_stale then
            for i = 0, lists - 1 do count(KEYS[key + i], false) end
        else
            put(KEYS[key], list, KEYS[list_at], timestamp)
            if lists == 2 then put(KEYS[key + 1], metadata, KEYS[list_at + 1], timestamp) end
        end
        for i = 0, usages - 1 do
            local usage_key, usage_timestamp = KEYS[key + lists + i], ARGV[arg + 2 * i]
            if is_newer(usage_at + i, tonumber(usage_timestamp)) then
                count(usage_key, false)
            else
                put(usage_key, ARGV[arg + 2 * i + 1], KEYS[usage_at + i], usage_timestamp)
            end
        end
        for i = 0, credits - 1 do put_credit(credit + 3 * i, arg + 2 * usages + 5 * i, false) end
        if not is_stale then
            for index = rate, rate + rates - 1 do
                local balance_at = tonumber(string.match(read(index) or '', '^%d*,%d*,(%d+)'))
                if balance_at and balance_at > at then return ADJUST_LIST end
            end
        end
        return APPLIED
    end)
end

-- Replaces a list by an adjusted one, if all that the adjusted list was made from is unchanged. The expiry stays.
-- Deciding keys: K, K#timestamp, balance records. Arguments: number of deciding keys, the new list, what was read of each ('' for
-- nothing).
function changes.replace()
    local keys, list, first, arg = tonumber(ARGV[a + 1]), ARGV[a + 2], d, a + 3
    d, a = d + keys, arg + keys
    for i = 0, keys - 1 do
        if (read(first + i) or '') ~= ARGV[arg + i] then return CONFLICT end
    end
    count(KEYS[first], true)
    set_here[KEYS[first]] = list
    if not dry_run then call('SET', KEYS[first], list, 'KEEPTTL') end
    return APPLIED
end

-- Deletes a list and its metadata, and records when the purge was sent and how new the list was: the purge may itself be out
-- of order, and then nothing older than that list may be written. The recorded time is never later than now, so that a list
-- from the future does not block all later ones.
-- Deciding keys: locks, tombstone, K#timestamp, metadata's timestamp. Other keys: K, metadata.
-- Arguments: number of locks, when the purge was sent, '1' to forget what the tombstone recorded.
function changes.purge()
    local locks, sent_at, resets = tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 3] == '1'
    local first, tombstone, keys = d, d + locks, { KEYS[k], KEYS[k + 1], KEYS[d + locks + 1], KEYS[d + locks + 2] }
    d, k, a = d + locks + 3, k + 2, a + 4
    if is_locked(first, locks) then return LOCKED end
    local purged, deleted = read_tombstone(tombstone)
    local is_known = purged and not resets
    if resets then purged, deleted = nil, 0 end
    if purged and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    if not resets then
        for index = tombstone + 1, tombstone + 2 do
            local latest = math.max(now, tonumber(sent_at))
            deleted = math.max(deleted, math.min(time_at(index) or 0, latest))
        end
    end
    for _, key in ipairs(keys) do
        if dry_run and exists(key) then count(key, true) end
        set_here[key] = false
    end
    if not dry_run then written = call('DEL', unpack(keys)) end
    -- A migration may list a hundred thousand customers of whom few are cached: only these get a tombstone.
    if is_known or not update_if_exists or (dry_run and #written or written) > 0 then
        set_tombstone(KEYS[tombstone], sent_at, deleted)
    elseif resets then
        delete(KEYS[tombstone])
    end
    return APPLIED
end

-- Deletes scanned values with their timestamps. If a list is newer than the invalidation, the invalidation is out of order:
-- the list's tombstone records how new it was.
-- Deciding keys: (timestamp, tombstone) of each value. Other keys: the values. Arguments: when the invalidation was sent, number
-- of values; for each '1' if it is a list and so has a tombstone.
function changes.unlink()
    local sent_at, values, first, key, arg = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), d, k, a + 3
    d, k, a = d + 2 * values, k + values, arg + values
    for i = 0, values - 1 do
        local index = first + 2 * i
        local at = ARGV[arg + i] == '1' and time_at(index)
        if at and at > sent_at then
            local purged, deleted = read_tombstone(index + 1)
            at = math.min(at, math.max(now, sent_at))
            if at > deleted then set_tombstone(KEYS[index + 1], purged or '0', at) end
        end
        written = written + call('UNLINK', KEYS[key + i], KEYS[index])
    end
    return APPLIED
end

-- An invalidation: it is not atomic, so the store makes it of several steps.
function changes.nothing()
    a = a + 1
    return APPLIED
end

-- Sets the environment's tombstone, or a probe key that shows that writes work. Deciding key: the tombstone. Arguments: the
-- time, expiry in seconds, '1' to overwrite a later time.
function changes.tombstone()
    local index, sent_at, secs, resets = d, ARGV[a + 1], ARGV[a + 2], ARGV[a + 3] == '1'
    d, a = d + 1, a + 4
    local purged = read_tombstone(index)
    if purged and not resets and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    call('SET', KEYS[index], sent_at, 'EX', secs)
    count(KEYS[index], true)
    return APPLIED
end

-- Deletes the environment's tombstone if it still has this time. Deciding key: the tombstone. Argument: the time.
function changes.clear()
    local index, sent_at = d, ARGV[a + 1]
    d, a = d + 1, a + 2
    if read(index) == sent_at then delete(KEYS[index]) end
    return APPLIED
end

local results, size = {}, 0
while a <= #ARGV do
    written, stale = dry_run and {} or 0, dry_run and {} or 0
    local is_done, status = pcall(changes[ARGV[a]])
    if is_done then
        results[size + 1], results[size + 2], results[size + 3] = status, written, stale
    else
        -- Redis 7 raises a table, Redis 6 a text with the error after a position.
        local message = type(status) == 'table' and status.err or tostring(status)
        message = string.match(message, '%-(%u%u+ .*)') or message
        results[size + 1], results[size + 2], results[size + 3] = FAILED, message, 0
    end
    size = size + 3
end
return results
