create table lamps (
    lamp_id uuid primary key,
    -- 1 awaited, 2 dark, 3 connecting, 4 lit, 5 cut
    status smallint not null check (status between 1 and 5),
    label text,
    level smallint,
    version int not null,
    said int not null,
    check ((status = 4) = (level is not null))
) with (fillfactor = 85);
