-- What versions say is packed from here on (`resource_version.content`, see `src/store/packed.rs`); what is there stays as it is.
-- No table changes: an older program, which could not read it, does not start where this step was taken.
select 1;
