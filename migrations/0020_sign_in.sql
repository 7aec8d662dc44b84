-- Sign-ins that have gone to the identity provider and have not come back yet.

create table sign_in (
    hash       text   not null primary key, -- SHA-256 of what the browser's cookie holds
    return_to  text   not null,             -- where to afterwards, within this site; or empty
    expires_at bigint not null
);
create index sign_in_expires on sign_in (expires_at);
