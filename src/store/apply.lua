-- Applies changes to the cache, in the order given and in one atomic step. A change is decided by what is stored and by what
-- the changes before it in the same call wrote. Each runs under pcall: one that fails does not stop the others.
--
-- KEYS  the deciding keys of each change, read with one MGET, then the other keys of each change (`script.rs` has both)
-- ARGV  1 number of deciding keys      2 expiry of written keys in seconds, '' for none
--       3 '1' for UPDATE_IF_EXISTS     4 '1' for a dry run: nothing is written
--       5 expiry of a tombstone in s   6 now, epoch ms
--       then 'usages', their number, the number of write locks of each, and the arguments of each;
--       or a kind of `changes` below and its arguments; and so on
-- Returns for each change: status + 16 * (keys written + 65536 * keys left because something newer is stored); in a dry run
--       {status, {keys written}, {keys left}}; for a change that failed, the error as a string.
--
-- A tombstone is '<when the last purge was sent>[:<timestamp of the newest list that it deleted>]'.
-- A balance record is '<timestamp of the credit usage beside it>,<timestamp of the usage that its period is from>,
-- <timestamp of the balance>,<1 if it is exhausted, else 0>,<validUntil>'; unknown parts are empty.
--
-- Most calls are of usages alone. A function is created again in each call, and all of them cost more than one usage does: the
-- script returns before it creates those that usages do not need.
local APPLIED, LOCKED, NOT_CACHED, PURGED_LATER, NO_CUSTOMER, ADJUST_LIST = 0, 1, 2, 3, 4, 5 -- as in `script.rs`
local KEYS, ARGV, call, expiry, dry_run = KEYS, ARGV, redis.call, ARGV[2], ARGV[4] == '1'
if dry_run then
    call = function(command, ...)
        if command == 'MGET' or command == 'GET' or command == 'EXISTS' then return redis.call(command, ...) end
    end
end
local next_deciding, next_other, next_arg = 1, tonumber(ARGV[1]) + 1, 7
local stored = next_other > 1 and call('MGET', unpack(KEYS, 1, next_other - 1)) or {}
local set_here = {} -- what this call has set, by key; false if deleted
local results, written, stale = {}, nil, nil

-- True if what is stored is newer than `timestamp`. 0 is the far-past marker that readers write: it replaces anything.
local function is_stored_newer(at, timestamp)
    if not at or at == timestamp or timestamp == '0' then return false end
    at = tonumber(at)
    return at and at > tonumber(timestamp)
end

-- Writes a value and its timestamp, unless something newer is stored.
local function write(timestamp_index, timestamp, key, value)
    local timestamp_key = KEYS[timestamp_index]
    local at = set_here[timestamp_key]
    if at == nil then at = stored[timestamp_index] end
    if is_stored_newer(at, timestamp) then
        if dry_run then stale[#stale + 1] = key else stale = stale + 1 end
        return
    end
    set_here[key], set_here[timestamp_key] = value, timestamp
    if dry_run then written[#written + 1] = key else written = written + 1 end
    if expiry == '' then
        call('SET', key, value)
        call('SET', timestamp_key, timestamp)
    else
        call('SET', key, value, 'EX', expiry)
        call('SET', timestamp_key, timestamp, 'EX', expiry)
    end
end

-- A usage of a metered feature.
-- Deciding keys: write locks, K#timestamp, the usage's timestamp. Other keys: refetch lock, usage. Arguments: timestamp, value.
local function usage(locks, first, other, arg)
    for index = first, first + locks - 1 do
        if stored[index] then return LOCKED end
    end
    local customer = first + locks
    local is_cached = set_here[KEYS[customer]]
    if is_cached == nil then is_cached = stored[customer] end
    if not is_cached and call('EXISTS', KEYS[other]) == 0 then return NO_CUSTOMER end
    write(customer + 1, ARGV[arg], KEYS[other + 1], ARGV[arg + 1])
    return APPLIED
end

local function run(change, ...)
    written, stale = dry_run and {} or 0, dry_run and {} or 0
    local is_done, status = pcall(change, ...)
    if not is_done then
        -- Redis 7 raises a table, Redis 6 a text with the error after a position.
        local message = type(status) == 'table' and status.err or tostring(status)
        status = string.match(message, '%-(%u%u+ .*)') or message
    elseif dry_run then
        status = { status, written, stale }
    else
        status = status + 16 * (written + 65536 * stale)
    end
    results[#results + 1] = status
end

-- Runs the usages that come next, if any.
local function run_usages()
    while ARGV[next_arg] == 'usages' do
        local usages, locks = tonumber(ARGV[next_arg + 1]), tonumber(ARGV[next_arg + 2])
        next_arg = next_arg + 3
        for _ = 1, usages do
            local first, other, arg = next_deciding, next_other, next_arg
            next_deciding, next_other, next_arg = first + locks + 2, other + 2, arg + 2
            run(usage, locks, first, other, arg)
        end
    end
end

run_usages()
if next_arg > #ARGV then return results end

local update_if_exists, tombstone_secs, now, changes = ARGV[3] == '1', ARGV[5], tonumber(ARGV[6]), {}

-- The next argument, and the first index of the next `n` deciding or other keys.
local function arg()
    next_arg = next_arg + 1
    return ARGV[next_arg - 1]
end

local function number() return tonumber(arg()) end

local function deciding(n)
    next_deciding = next_deciding + n
    return next_deciding - n
end

local function other(n)
    next_other = next_other + n
    return next_other - n
end

local function read(index)
    local value = set_here[KEYS[index]]
    if value == nil then return stored[index] end
    return value
end

local function exists(key)
    if set_here[key] ~= nil then return set_here[key] and true end
    return call('EXISTS', key) == 1
end

local function is_locked(first, locks)
    for index = first, first + locks - 1 do
        if read(index) then return true end
    end
end

local function is_newer(index, timestamp) return is_stored_newer(read(index), timestamp) end

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
    if expiry == '' then call('SET', key, value) else call('SET', key, value, 'EX', expiry) end
end

local function delete(key)
    set_here[key] = false
    call('DEL', key)
end

-- The timestamp at this index; nil if there is none or it is not a number.
local function time_at(index) return tonumber(read(index) or nil) end

local function read_tombstone(index)
    local purged, deleted = string.match(read(index) or '', '^(%d+):?(%d*)$')
    return purged, tonumber(deleted) or 0
end

local function set_tombstone(key, purged, deleted)
    local value = purged
    if deleted > 0 then value = string.format('%s:%.0f', purged, deleted) end
    set_here[key] = value
    call('SET', key, value, 'EX', tombstone_secs)
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
-- Deciding keys from `first`: timestamp, value, balance record. Arguments from `a`: timestamp, usage, period start and end
-- ('' for none), '1' for nextResetDate; then, with `has_balance`: '1' exhausted, '0' not, '' unknown, and validUntil.
-- Returns true if the balance is the newest that was seen.
local function put_credit(first, a, has_balance)
    local timestamp, usage, from, to, has_next_reset_date = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4] == '1'
    local at, before, key = tonumber(timestamp), read(first + 1) or '', KEYS[first + 1]
    local value_at, period_at, balance_at, exhausted, valid_until =
        string.match(read(first + 2) or '', '^(%d*),(%d*),(%d*),(%d?),(%-?%d*)$')
    local before_from = string.match(before, '"usagePeriodStart":(%d+)') or ''
    local before_to = string.match(before, '"usagePeriodEnd":(%d+)') or ''
    local stored_at = read(first) or ''
    if (value_at or '') ~= stored_at then -- written by a reader, or by an older version of this service
        period_at = before_from .. before_to ~= '' and stored_at or ''
    end
    local has_period, is_stale = from .. to ~= '', is_newer(first, timestamp)
    count(key, not is_stale)
    local is_period_newer = has_period and (not is_stale or at > (tonumber(period_at) or -1))
    if is_stale then
        usage = string.match(before, '"currentUsage":(%-?[%d%.eE+-]+)')
    else
        stored_at = timestamp
        if not has_period then from, to = before_from, before_to end
    end
    if not is_stale or is_period_newer and usage then
        if is_period_newer then period_at = timestamp end
        set(key, credit_json(usage, from, to, has_next_reset_date))
        set(KEYS[first], stored_at)
    end
    local is_newest = has_balance and ARGV[a + 5] ~= '' and at >= (tonumber(balance_at) or -1)
    if is_newest then
        balance_at, exhausted, valid_until = timestamp, ARGV[a + 5], ARGV[a + 6]
    end
    set(KEYS[first + 2],
        table.concat({ stored_at, period_at or '', balance_at or '', exhausted or '', valid_until or '' }, ','))
    return is_newest
end

-- A list or a balance that comes while an SDK refetches is written at once, and once more when the refetch has ended: an
-- SDK that gets no entitlements from Stigg replaces whatever is stored. `refetch` is 'again' for the first try, 'wait' for
-- those after it, which write only what is not yet stored, and '' where the lock does not matter. `index` is that of its
-- timestamp.
local function while_refetching(refetch, lock, index, timestamp, write_it)
    local is_held = refetch ~= '' and exists(lock)
    if is_held and refetch == 'wait' and (time_at(index) or -1) >= timestamp then return LOCKED end
    local status = write_it()
    return is_held and LOCKED or status
end

-- A credit balance.
-- Deciding keys: write locks, K#timestamp, then those of put_credit. Other keys: refetch lock, K.
-- Arguments: number of locks, refetch, text in any list that the balance concerns ('' if no list is adjusted), then those
-- of put_credit.
function changes.balance()
    local locks, refetch, credit_rate_text, a = number(), arg(), arg(), next_arg
    local first, customer, credit = deciding(locks), deciding(1), deciding(3)
    local lock, key = KEYS[other(1)], KEYS[other(1)]
    next_arg = a + 7
    if is_locked(first, locks) then return LOCKED end
    if not read(customer) and not exists(lock) then return NO_CUSTOMER end
    local at = tonumber(ARGV[a])
    return while_refetching(refetch, lock, credit, at, function()
        if not put_credit(credit, a, true) or credit_rate_text == '' then return APPLIED end
        local list_at = time_at(customer)
        local is_concerned = list_at and list_at <= at and string.find(call('GET', key) or '', credit_rate_text, 1, true)
        return is_concerned and ADJUST_LIST or APPLIED
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
    local locks, refetch, tombstones, usages, credits, rates = number(), arg(), number(), number(), number(), number()
    local sent_at, is_from_edge_api, timestamp, list, metadata = number(), arg() == '1', arg(), arg(), arg()
    local at, lists, usage_arg = tonumber(timestamp), metadata ~= '' and 2 or 1, next_arg
    local credit_arg = usage_arg + 2 * usages
    local first, environment, list_at, usage_at = deciding(locks), deciding(tombstones), deciding(lists), deciding(usages)
    local credit, rate = deciding(3 * credits), deciding(rates)
    local lock, key, usage_key = KEYS[other(1)], other(lists), other(usages)
    next_arg = credit_arg + 5 * credits
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
        local is_stale = is_newer(list_at, timestamp) or lists == 2 and is_newer(list_at + 1, timestamp)
        for i = 0, lists - 1 do
            count(KEYS[key + i], not is_stale)
            if not is_stale then
                set(KEYS[key + i], i == 0 and list or metadata)
                set(KEYS[list_at + i], timestamp)
            end
        end
        for i = 0, usages - 1 do
            write(usage_at + i, ARGV[usage_arg + 2 * i], KEYS[usage_key + i], ARGV[usage_arg + 2 * i + 1])
        end
        for i = 0, credits - 1 do put_credit(credit + 3 * i, credit_arg + 5 * i, false) end
        for index = rate, rate + rates - 1 do
            local balance_at = tonumber(string.match(read(index) or '', '^%d*,%d*,(%d+)'))
            if not is_stale and balance_at and balance_at > at then return ADJUST_LIST end
        end
        return APPLIED
    end)
end

-- Replaces a list by an adjusted one, if all that the adjusted list was made from is unchanged. The expiry stays.
-- Deciding keys: K, K#timestamp, balance records. Arguments: number of deciding keys, the new list, what was read of each ('' for
-- nothing).
function changes.replace()
    local keys, list = number(), arg()
    local first, a = deciding(keys), next_arg
    next_arg = a + keys
    for i = 0, keys - 1 do
        if (read(first + i) or '') ~= ARGV[a + i] then return LOCKED end
    end
    count(KEYS[first], true)
    call('SET', KEYS[first], list, 'KEEPTTL')
    return APPLIED
end

-- Deletes a list and its metadata, and records when the purge was sent and how new the list was: the purge may itself be out
-- of order, and then nothing older than that list may be written. The recorded time is at most now, or the purge's if that is
-- later, so that a list from the future does not block all later ones.
-- Deciding keys: locks, tombstone, K#timestamp, metadata's timestamp. Other keys: K, metadata.
-- Arguments: number of locks, when the purge was sent, '1' to forget what the tombstone recorded.
function changes.purge()
    local locks, sent_at, resets = number(), arg(), arg() == '1'
    local first, tombstone, timestamps, values = deciding(locks), deciding(1), deciding(2), other(2)
    local keys = { KEYS[values], KEYS[values + 1], KEYS[timestamps], KEYS[timestamps + 1] }
    if is_locked(first, locks) then return LOCKED end
    local purged, deleted = read_tombstone(tombstone)
    local is_known = purged and not resets
    if is_known and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    if resets then
        deleted = 0
    else
        local latest = math.max(now, tonumber(sent_at))
        for index = timestamps, timestamps + 1 do
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

-- Deletes a scanned value with its timestamp. If a list is newer than the invalidation, the invalidation is out of order: the
-- list's tombstone records how new it was.
-- Deciding keys: timestamp, tombstone. Other key: the value. Arguments: when the invalidation was sent, '1' if it is a list and
-- so has a tombstone.
function changes.unlink()
    local sent_at, is_list, timestamp, tombstone, key = number(), arg() == '1', deciding(1), deciding(1), KEYS[other(1)]
    local at = is_list and time_at(timestamp)
    if at and at > sent_at then
        local purged, deleted = read_tombstone(tombstone)
        at = math.min(at, math.max(now, sent_at))
        if at > deleted then set_tombstone(KEYS[tombstone], purged or '0', at) end
    end
    written = call('UNLINK', key, KEYS[timestamp])
    return APPLIED
end

-- An invalidation: it is not atomic, so the store makes it of several steps.
function changes.nothing() return APPLIED end

-- Sets the environment's tombstone, or a probe key that shows that writes work. Deciding key: the tombstone. Arguments: the
-- time, expiry in seconds, '1' to overwrite a later time.
function changes.tombstone()
    local sent_at, secs, resets, index = arg(), arg(), arg() == '1', deciding(1)
    local purged = read_tombstone(index)
    if purged and not resets and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    call('SET', KEYS[index], sent_at, 'EX', secs)
    count(KEYS[index], true)
    return APPLIED
end

repeat
    run(changes[arg()])
    run_usages()
until next_arg > #ARGV
return results
