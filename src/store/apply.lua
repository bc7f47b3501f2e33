-- Applies changes to the cache, in the order given and in one atomic step. A change is decided by what is stored and by what
-- the changes before it in the same call wrote. Each runs under pcall: one that fails does not stop the others.
--
-- KEYS  the deciding keys of each change, read with one MGET, then the other keys of each change
-- ARGV  1 number of deciding keys      2 expiry of written keys in seconds, '' for none
--       3 '1' for UPDATE_IF_EXISTS     4 '1' for a dry run: nothing is written
--       5 expiry of a tombstone in s   6 now, epoch ms
--       7 length of the heads, which follow: a kind of `changes` below, how many come in a row, and how many locks, further
--         deciding keys, other keys and arguments each of them has; and so on
--       then the arguments of each change
-- A change's deciding keys begin with its locks. Its first locals name its other keys and its arguments in their order; of the
-- arguments, '' is none and '1' true.
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
local next_deciding, next_other, next_head, next_arg = 1, tonumber(ARGV[1]) + 1, 8, 8 + ARGV[7]
local heads_end = next_arg
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

-- A usage of a metered feature. Deciding keys: K#timestamp, the usage's timestamp. Other keys: refetch lock, usage. Arguments:
-- timestamp, value.
local function usage()
    local is_cached = set_here[KEYS[next_deciding]]
    if is_cached == nil then is_cached = stored[next_deciding] end
    if not is_cached and call('EXISTS', KEYS[next_other]) == 0 then return NO_CUSTOMER end
    write(next_deciding + 1, ARGV[next_arg], KEYS[next_other + 1], ARGV[next_arg + 1])
    return APPLIED
end

local function run(change, locks)
    written, stale = dry_run and {} or 0, dry_run and {} or 0
    local is_done, status = true, nil
    next_deciding = next_deciding + locks
    for index = next_deciding - locks, next_deciding - 1 do
        if stored[index] then status = LOCKED end
    end
    if not status then is_done, status = pcall(change) end
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

local changes = { usage = usage }

-- Runs the changes that come next, as far as there are functions for them.
local function run_known()
    while next_head < heads_end and changes[ARGV[next_head]] do
        local change, number, locks, keys, others, arguments = unpack(ARGV, next_head, next_head + 5)
        locks, others, arguments = tonumber(locks), tonumber(others), tonumber(arguments)
        keys = locks + keys
        next_head = next_head + 6
        for _ = 1, tonumber(number) do
            -- However the change ends, these numbers say where the next one begins.
            local deciding_end, other_end, arg_end = next_deciding + keys, next_other + others, next_arg + arguments
            run(changes[change], locks)
            next_deciding, next_other, next_arg = deciding_end, other_end, arg_end
        end
    end
end

run_known()
if next_head == heads_end then return results end

local update_if_exists, tombstone_secs, now = ARGV[3] == '1', ARGV[5], tonumber(ARGV[6])

-- The next `n` arguments.
local function args(n)
    next_arg = next_arg + n
    return unpack(ARGV, next_arg - n, next_arg - 1)
end

-- The first index of the next `n` deciding or other keys.
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

-- Writes the usage of a credit currency. Usage, period and balance are each the newest that was seen, in whatever order
-- messages come: one without a period keeps the stored period, and one older than the stored usage may still bring the period.
-- Deciding keys from `first`: timestamp, value, balance record. `exhausted` is '' if the message has no balance.
-- Returns true if the balance is the newest that was seen.
local function put_credit(first, exhausted, valid_until, timestamp, usage, from, to, has_next_reset_date)
    local at, before, key = tonumber(timestamp), read(first + 1) or '', KEYS[first + 1]
    local value_at, period_at, balance_at, was_exhausted, was_valid_until =
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
        local json = '{"currentUsage":' .. usage
        if from ~= '' then json = json .. ',"usagePeriodStart":' .. from end
        if to ~= '' then json = json .. ',"usagePeriodEnd":' .. to end
        if to ~= '' and has_next_reset_date == '1' then json = json .. ',"nextResetDate":' .. to end
        set(key, json .. '}')
        set(KEYS[first], stored_at)
    end
    local is_newest = exhausted ~= '' and at >= (tonumber(balance_at) or -1)
    if is_newest then
        balance_at = timestamp
    else
        exhausted, valid_until = was_exhausted or '', was_valid_until or ''
    end
    set(KEYS[first + 2], table.concat({ stored_at, period_at or '', balance_at or '', exhausted, valid_until }, ','))
    return is_newest
end

-- A list or a balance that comes while an SDK refetches is written at once, and once more when the refetch has ended: an
-- SDK that gets no entitlements from Stigg replaces whatever is stored. `refetch` is 'again' for the first try, 'wait' for
-- those after it, which write only what is not yet stored, and '' where the lock does not matter. `index` is that of its
-- timestamp. Returns whether the lock is held, and whether there is nothing to write before it is released.
local function while_refetching(refetch, lock, index, timestamp)
    local is_held = refetch ~= '' and exists(lock)
    return is_held, is_held and refetch == 'wait' and (time_at(index) or -1) >= timestamp
end

-- A credit balance. `credit_rate_text` is in any list that the balance concerns; '' if no list is adjusted. The arguments of the
-- credit follow.
function changes.balance()
    local refetch, credit_rate_text, exhausted, valid_until = args(4)
    local list_at, credit, lock, key = deciding(1), deciding(3), KEYS[other(1)], KEYS[other(1)]
    local at = tonumber(ARGV[next_arg]) -- the first argument of the credit
    if not read(list_at) and not exists(lock) then return NO_CUSTOMER end
    local is_refetching, is_done = while_refetching(refetch, lock, credit, at)
    if is_done then return LOCKED end
    local is_newest = put_credit(credit, exhausted, valid_until, args(5))
    if is_refetching then return LOCKED end
    local listed_at = is_newest and credit_rate_text ~= '' and time_at(list_at)
    local is_concerned = listed_at and listed_at <= at and string.find(call('GET', key) or '', credit_rate_text, 1, true)
    return is_concerned and ADJUST_LIST or APPLIED
end

-- A whole entitlement list, with metadata ('' for none) and usages. `sent_at` is when the message was sent, or Stigg was asked.
-- The arguments of each usage and credit follow.
function changes.entitlements()
    local refetch, tombstones, usages, credits, rates, sent_at, is_from_edge_api, timestamp, list, metadata = args(10)
    local lists = metadata ~= '' and 2 or 1
    -- The tombstones are the environment's, its own and, for a resource, its customer's; the rates are balance records.
    local environment, list_at, usage_at = deciding(tombstones), deciding(lists), deciding(usages)
    local credit, rate, lock, key, usage_key = deciding(3 * credits), deciding(rates), KEYS[other(1)], other(lists), other(usages)
    local at, is_message = tonumber(timestamp), is_from_edge_api ~= '1'
    sent_at = tonumber(sent_at)

    -- If a purge was sent after this message, or at the same time, the message is out of order. So is one whose list is older
    -- than the list that its own tombstone recorded. A purge of the customer leaves a resource's list in place: a stored list,
    -- or one that is being refetched, is compared by timestamp. A stored list with the far-past marker may be older or newer than
    -- that purge, so it is deleted and the next reader asks Stigg.
    local own_purged, own_deleted = read_tombstone(environment + 1)
    local stored_at = time_at(list_at) or 0
    -- A redrive gives a message a new SentTimestamp: if nothing is stored to compare with, the list's own time counts too.
    if stored_at == 0 and at > 0 and is_message then sent_at = math.min(sent_at, at) end
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
    if own_deleted > at and at ~= 0 and is_message then return PURGED_LATER end

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

    local is_refetching, is_done = while_refetching(refetch, lock, list_at, at)
    if is_done then return LOCKED end
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
        write(usage_at + i, ARGV[next_arg], KEYS[usage_key + i], ARGV[next_arg + 1])
        next_arg = next_arg + 2
    end
    for i = 0, credits - 1 do put_credit(credit + 3 * i, '', '', args(5)) end
    if is_refetching then return LOCKED end
    for index = rate, rate + rates - 1 do
        local balance_at = tonumber(string.match(read(index) or '', '^%d*,%d*,(%d+)'))
        if not is_stale and balance_at and balance_at > at then return ADJUST_LIST end
    end
    return APPLIED
end

-- Replaces a list by an adjusted one, if all that the adjusted list was made from is unchanged: the list, its timestamp and
-- balance records. What was read of each follows as an argument ('' for nothing). The expiry stays.
function changes.replace()
    local keys, list = args(2)
    local key = KEYS[next_deciding]
    for _ = 1, tonumber(keys) do
        if (read(deciding(1)) or '') ~= args(1) then return LOCKED end
    end
    count(key, true)
    call('SET', key, list, 'KEEPTTL')
    return APPLIED
end

-- Deletes a list and its metadata, and records when the purge was sent and how new the list was: the purge may itself be out
-- of order, and then nothing older than that list may be written. The recorded time is at most now, or the purge's if that is
-- later, so that a list from the future does not block all later ones. With `resets`, what the tombstone recorded is forgotten.
function changes.purge()
    local sent_at, resets = args(2)
    local tombstone, timestamps, values = deciding(1), deciding(2), other(2)
    local keys = { KEYS[values], KEYS[values + 1], KEYS[timestamps], KEYS[timestamps + 1] }
    local purged, deleted = read_tombstone(tombstone)
    local is_known = purged and resets ~= '1'
    if is_known and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    if resets == '1' then
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
    elseif resets == '1' then
        delete(KEYS[tombstone])
    end
    return APPLIED
end

-- Deletes a scanned value with its timestamp. If it is a list, and newer than the invalidation, the invalidation is out of
-- order: the list's tombstone records how new it was.
function changes.unlink()
    local sent_at, is_list = args(2)
    local timestamp, tombstone, key = deciding(1), deciding(1), KEYS[other(1)]
    local at = is_list == '1' and time_at(timestamp)
    sent_at = tonumber(sent_at)
    if at and at > sent_at then
        local purged, deleted = read_tombstone(tombstone)
        at = math.min(at, math.max(now, sent_at))
        if at > deleted then set_tombstone(KEYS[tombstone], purged or '0', at) end
    end
    written = call('UNLINK', key, KEYS[timestamp])
    return APPLIED
end

-- Sets the environment's tombstone, or a probe key that shows that writes work. With `resets`, a later time is overwritten.
function changes.tombstone()
    local sent_at, secs, resets = args(3)
    local index = deciding(1)
    local purged = read_tombstone(index)
    if purged and resets ~= '1' and tonumber(purged) > tonumber(sent_at) then sent_at = purged end
    call('SET', KEYS[index], sent_at, 'EX', secs)
    count(KEYS[index], true)
    return APPLIED
end

-- An invalidation: it is not atomic, so the store makes it of several steps.
function changes.nothing() return APPLIED end

run_known()
return results
