-- What the identity provider calls a session, so that it can end it: SHA-256 of issuer|sid; empty where it has no name.

alter table session add column sid text not null default '';
create index session_sid on session (sid) where sid <> '';
