-- What every service has beside its own tables.

-- Each process takes a number when it starts and holds a lock on it while it lives.
create sequence boot;

-- Every event that this service has said: the audit log, and what can be published again.
-- Ids are uuid v7, so a range of ids is a span of time.
create table events (
    id uuid primary key,
    subject uuid not null,
    version int,                    -- 1, 2, … per subject without a gap; null: a notice
    type text not null,
    headers bytea not null,
    body bytea not null,            -- the final wire bytes
    created_at timestamptz not null default now()
) partition by range (id);
alter table events alter column body set storage external;

-- The ids of events that the broker has not acknowledged yet: insert and delete, no update.
create table outbox (
    event_id uuid primary key,
    boot int not null,
    queued_at timestamptz not null default now()
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- Events handled, by consumer. The hash tells one id with two bodies from a repeat.
create table inbox (
    event_id uuid,
    consumer text,
    body_hash bigint not null,
    handled_at timestamptz not null default now(),
    primary key (event_id, consumer)
) partition by range (event_id);

-- A row in a default partition means that a week is missing: an alarm.
create table events_default partition of events default;
create table inbox_default partition of inbox default;

-- Outside calls that are wanted and not settled.
create table calls (
    subject uuid,
    step text,
    destination text not null,
    path text not null,
    idempotency_key text not null unique,
    body bytea not null,
    headers bytea not null,
    attempts int not null,          -- counted before the attempt
    last_outcome smallint,          -- 0 unknown, 1 refused in doubt; null: none yet
    in_doubt boolean not null default false,
    error_code text,
    boot int,                       -- who has an attempt in flight, else null
    next_attempt_at timestamptz not null,   -- infinity: stuck
    deadline timestamptz,           -- null: a compensation, bounded by attempts alone
    created_at timestamptz not null default now(),
    primary key (subject, step)
);
create index on calls (destination, next_attempt_at);

create table idempotency_keys (
    caller text,
    method text,
    route text,
    key text,
    fingerprint bytea not null,
    status smallint not null,
    headers bytea not null,
    body bytea not null,
    created_at timestamptz not null default now(),
    primary key (caller, method, route, key)
);

create table dead_letters (
    id uuid primary key,
    origin text not null check (origin in ('consumer', 'call', 'outbox')),
    consumer text,
    topic text,
    partition int,
    log_offset bigint,
    subject uuid,
    code text not null,
    headers bytea,
    body bytea not null,
    attempts int not null,
    state text not null default 'open'
        check (state in ('open', 'replaying', 'replayed', 'superseded', 'discarded')),
    first_failed_at timestamptz not null default now(),
    last_failed_at timestamptz not null default now(),
    unique (consumer, topic, partition, log_offset)
);

-- The smallest uuid v7 of a moment.
create function uuid_floor(at timestamptz) returns uuid language sql immutable as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
        || repeat('0', 20))::uuid
$$;

-- Makes the weekly partitions around now. It runs with its owner's rights, so that the service
-- can call it every day without being able to alter anything else.
create function ensure_partitions(weeks_back int, weeks_ahead int) returns void
language plpgsql security definer set search_path from current set timezone = 'UTC' as $$
declare
    parent text;
    week_name text;
    monday timestamptz;
begin
    perform pg_advisory_xact_lock(hashtext('partitions ' || current_schema()), 0);
    -- In the order in which a batch locks them.
    foreach parent in array array['inbox', 'events'] loop
        for week in -weeks_back .. weeks_ahead loop
            monday := date_trunc('week', now()) + week * interval '7 days';
            week_name := parent || '_' || to_char(monday, 'IYYY"w"IW');
            continue when to_regclass(week_name) is not null;
            begin
                execute format(
                    'create table %I partition of %I for values from (%L) to (%L)',
                    week_name, parent, uuid_floor(monday), uuid_floor(monday + interval '7 days'));
                if parent = 'events' then
                    perform append_only(week_name);
                end if;
            exception when check_violation then
                -- Its rows lie in the default partition already: an alarm, and no reason not to
                -- start.
                raise warning '% is not made: rows of that week are in the default partition',
                    week_name;
            end;
        end loop;
    end loop;
end
$$;

-- What was said stays said: the service appends to its events and changes none, by whatever name.
create function append_only(name text) returns void
language plpgsql set search_path from current as $$
begin
    if exists (select from pg_roles where rolname = current_schema() || '_app') then
        execute format('revoke update, delete on %I from %I', name, current_schema() || '_app');
    end if;
end
$$;
select append_only('events'), append_only('events_default');
