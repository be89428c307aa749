-- One service's corner of a database: three roles and one schema that only they can touch.
-- Run by a superuser, as often as one likes; {service} is replaced before.
do $$
declare
    role_name text;
begin
    -- Roles belong to the whole cluster: two databases may be made ready at once.
    perform pg_advisory_xact_lock(hashtext('switchback bootstrap'));
    foreach role_name in array array['{service}_owner', '{service}_app', '{service}_ro'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            execute format('create role %I login', role_name);
        end if;
    end loop;
end
$$;

revoke all on schema public from public;
create schema if not exists "{service}" authorization {service}_owner;
grant usage on schema "{service}" to {service}_app, {service}_ro;

alter default privileges for role {service}_owner in schema "{service}"
    grant select, insert, update, delete on tables to {service}_app;
alter default privileges for role {service}_owner in schema "{service}"
    grant usage, select on sequences to {service}_app;
alter default privileges for role {service}_owner in schema "{service}"
    grant select on tables to {service}_ro;

alter role {service}_owner set search_path = "{service}";
alter role {service}_ro set search_path = "{service}";
alter role {service}_app set search_path = "{service}";
-- Prepared once, run for ever: a plan must depend neither on the size of the first batch nor on how
-- small a table was then. A lane finds its rows by an index, always.
alter role {service}_app set jit = off;
alter role {service}_app set plan_cache_mode = force_generic_plan;
alter role {service}_app set enable_seqscan = off;
alter role {service}_app set lock_timeout = '2s';
alter role {service}_app set statement_timeout = '10s';
alter role {service}_app set idle_in_transaction_session_timeout = '5s';
