-- How long rows live: weeks that are dropped, rows that are purged, and what vacuum is told of both.

-- A call is inserted, updated by each attempt and deleted, within seconds.
alter table calls set (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- Keys live for a day and go oldest first.
alter table idempotency_keys set (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000
);
create index on idempotency_keys (created_at);

-- A dead letter that needs nobody any more says since when.
alter table dead_letters add column closed_at timestamptz;
update dead_letters set closed_at = last_failed_at where state not in ('open', 'replaying');
alter table dead_letters add constraint dead_letters_closed
    check ((closed_at is null) = (state in ('open', 'replaying')));
create index on dead_letters (closed_at) where closed_at is not null;

-- A topic that has lost its records gives an offset twice: another record there is another letter,
-- the same one again is not.
alter table dead_letters drop constraint dead_letters_consumer_topic_partition_log_offset_key;
create unique index on dead_letters
    (consumer, topic, partition, log_offset, md5(coalesce(headers, '')), md5(body));

-- Makes the weekly partitions around now: of `inbox` from so many weeks back, of `events` from the
-- last one. It runs with its owner's rights, so that the service can call it every day without being
-- able to alter anything else.
create or replace function ensure_partitions(weeks_back int, weeks_ahead int) returns void
language plpgsql security definer set search_path from current set timezone = 'UTC' as $$
declare
    parent text;
    week_name text;
    monday timestamptz;
begin
    perform pg_advisory_xact_lock(hashtext('partitions ' || current_schema()), 0);
    -- Whoever waits for a table holds up everybody behind it.
    perform set_config('lock_timeout', '100ms', true);
    -- In the order in which a batch locks them.
    foreach parent in array array['inbox', 'events'] loop
        for week in -(case parent when 'inbox' then weeks_back else 1 end) .. weeks_ahead loop
            monday := date_trunc('week', now()) + week * interval '7 days';
            week_name := parent || '_' || to_char(monday, 'IYYY"w"IW');
            continue when to_regclass(week_name) is not null;
            begin
                -- Rows are only added: vacuum freezes them by the half million.
                execute format(
                    'create table %I partition of %I for values from (%L) to (%L) with (
                         autovacuum_vacuum_insert_scale_factor = 0,
                         autovacuum_vacuum_insert_threshold = 500000)',
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

-- The oldest week of a table that ended so many weeks before this one began, unless an event that
-- the broker has not acknowledged lies in it or before it. A default partition is no week.
create function oldest_week(parent text, weeks int) returns text
language sql volatile set search_path from current set timezone = 'UTC' as $$
    select week.name
      from (select c.relname::text as name,
                   substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''(.*)''\)')::uuid as until
              from pg_inherits i
              join pg_class c on c.oid = i.inhrelid
             where i.inhparent = parent::regclass) week
     where week.until <= uuid_floor(date_trunc('week', now()) - weeks * interval '7 days')
       and not exists (select from outbox where parent = 'events' and event_id < week.until)
     order by week.until
     limit 1
$$;

-- Drops the oldest week of `inbox` and of `events` that ended so many weeks before this one began,
-- and says which. One at a time: a clock that leaps costs a week and not the year. It waits for a
-- table no longer than a batch can bear, and fails instead.
create function drop_partitions(inbox_weeks int, events_weeks int) returns setof text
language plpgsql security definer set search_path from current set timezone = 'UTC' as $$
declare
    parent text;
    weeks int;
    week_name text;
begin
    perform pg_advisory_xact_lock(hashtext('partitions ' || current_schema()), 0);
    perform set_config('lock_timeout', '100ms', true);
    -- In the order in which a batch locks them.
    foreach parent in array array['inbox', 'events'] loop
        weeks := greatest(case parent when 'inbox' then inbox_weeks else events_weeks end, 1);
        continue when oldest_week(parent, weeks) is null;
        execute format('lock table only %I in access exclusive mode', parent);
        -- Nothing is put into the outbox from `events` now, so this answer stands.
        week_name := oldest_week(parent, weeks);
        continue when week_name is null;
        execute format('drop table %I', week_name);
        return next week_name;
    end loop;
end
$$;

do $$
begin
    revoke execute on function drop_partitions(int, int) from public;
    if exists (select from pg_roles where rolname = current_schema() || '_app') then
        execute format('grant execute on function drop_partitions(int, int) to %I',
                       current_schema() || '_app');
    end if;
end
$$;
