-- The history of a type: its versions by time, in the order of pages.

create index resource_version_updated on resource_version (type, updated, id, version);
