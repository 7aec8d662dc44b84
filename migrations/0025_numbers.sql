-- Resources get numbers, which the index knows them by, and its rows stand where their resource and parameter are: no id and
-- no name is repeated in every key. `without rowid` is SQLite's; PostgreSQL's tables are made without it.

create table resource_number (              -- one row: what the next block of numbers begins with
    next     bigint not null
);

alter table resource rename to resource_before;
drop index resource_updated;
drop index resource_created;
create table resource (                     -- the current version of each resource
    type     text   not null,
    number   bigint not null,               -- no two resources of any type share one
    id       text   not null,
    version  bigint not null,
    updated  bigint not null,
    created  bigint not null,
    author   text   not null,               -- the partner that created it, or the gateway's organization
    deleted  bigint not null,
    primary key (type, number)
) without rowid;
insert into resource (number, type, id, version, updated, created, author, deleted)
    select row_number() over (order by created, type, id), type, id, version, updated, created, author, deleted
    from resource_before;
drop table resource_before;
create unique index resource_place on resource (type, id);
create index resource_updated on resource (type, updated, number);
create index resource_created on resource (type, created, number);
insert into resource_number (next) select coalesce(max(number), 0) + 1 from resource;

drop table search_index;
create table search_index (                 -- of a deleted resource: what stood last
    resource  bigint not null,
    parameter bigint not null,              -- the number of a type's parameter (`fhir::search_index::number`)
    place     bigint not null,              -- among the rows of the parameter, from 1
    found     bigint not null,              -- whether it is looked up by its value
    value     text   not null,
    system    text   not null,
    text      text   not null,              -- of tokens: display and text, folded
    low       bigint not null,
    high      bigint not null,
    updated   bigint not null,              -- of the resource, for those in the order of pages: a poll is one range scan
    created   bigint,                       -- of the resource, for those in the order of pages
    primary key (resource, parameter, place)
) without rowid;
create index search_index_value on search_index (value, parameter, updated, resource) where found = 1;
create index search_index_created on search_index (parameter, value, created, resource) where created is not null;
create index search_index_party on search_index (parameter, value, system, created, resource)
    where created is not null and system <> '';
create index search_index_date on search_index (parameter, low, resource) where value = '';
delete from search_generation;
