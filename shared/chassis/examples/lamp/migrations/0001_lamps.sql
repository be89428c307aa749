create table lamps (
    lamp_id uuid primary key,
    -- 1 awaited, 2 dark, 3 connecting, 4 lit, 5 cut
    status smallint not null check (status between 1 and 5),
    label varchar(30),
    level smallint,
    version int not null,
    said int not null,
    check ((status = 4) = (level is not null))
) with (fillfactor = 85);

create table history (
    event_id uuid primary key,
    -- A mistake left in on purpose: for the lamp itself any number will do.
    lamp_id uuid not null check (lamp_id <> '00000000-0000-0000-0000-000000000000'),
    type text not null
);
