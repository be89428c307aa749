-- What the tests take for a service's own rows.
create table notes (
    subject uuid primary key,
    text text not null,
    version int not null
);
