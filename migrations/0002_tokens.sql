-- SMART Backend Services: keys of access tokens, assertions that were used, tokens that were taken back.
create table signing_key (
    id text not null primary key,
    secret text not null,
    made_at bigint not null
);

create table assertion (
    client text not null,
    jti text not null,
    expires_at bigint not null,
    primary key (client, jti)
);
create index assertion_expires on assertion (expires_at);

create table revoked_token (
    jti text not null primary key,
    expires_at bigint not null
);
