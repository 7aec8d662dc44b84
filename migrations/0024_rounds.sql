-- How far a round of polling has come that is not at its end: one that was interrupted goes on there.

alter table partner add column round text;
