-- Whoever is about to create something that must be there once locks one of these rows first.
create table turn (
    number bigint not null primary key,
    taken  bigint not null
);
