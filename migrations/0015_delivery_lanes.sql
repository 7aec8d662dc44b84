-- What is owed is counted by the endpoint that it goes to, not by the partner alone.

alter table delivery add column lane text not null default '';          -- scheme and host of a subscriber's endpoint; fhir:PARTNER
update subscription set lane = 'websocket:' || id where socket is not null;
update delivery set lane = 'fhir:' || partner;
update delivery set lane = (select s.lane from subscription s where s.id = delivery.subject)
    where kind = 'notify' and exists (select 1 from subscription s where s.id = delivery.subject);
