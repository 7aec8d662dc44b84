//! Interactions, as they stand alone, in a batch or in a transaction: what is asked for, and what it made.
//! <https://hl7.org/fhir/R4/http.html>

use std::sync::Arc;

use super::{Answer, App, Context, Found, Stored};
use crate::error::Error;
use crate::fhir::patch::Patch;
use crate::fhir::precondition::Precondition;
use crate::fhir::query::Criteria;
use crate::fhir::search::Search;
use crate::fhir::{Key, Resource, ResourceType};

/// What an interaction is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `T/id`
    Key(Key),
    /// `T?criteria`
    Criteria(ResourceType, Criteria),
}

/// An interaction that can stand alone or in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// create, perhaps conditional
    Create(Resource, Option<Criteria>),
    /// update, perhaps conditional
    Update(Target, Resource, Precondition),
    /// patch, perhaps conditional
    Patch(Target, Patch, Precondition),
    /// delete, perhaps conditional
    Delete(Target, Precondition),
    /// read
    Read(Key),
    /// vread
    Version(Key, i64),
    /// search-type, search-system, a search of a compartment
    Search(Box<Search>),
}

impl Ask {
    /// What is named by its id, to be changed.
    pub(super) fn changed(&self) -> Option<&Key> {
        match self {
            Ask::Update(Target::Key(key), ..) | Ask::Patch(Target::Key(key), ..) | Ask::Delete(Target::Key(key), _) => {
                Some(key)
            }
            Ask::Update(..) | Ask::Patch(..) | Ask::Delete(..) => None,
            Ask::Create(..) | Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => None,
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_read(&self) -> bool {
        match self {
            Ask::Read(_) | Ask::Version(..) | Ask::Search(_) => true,
            Ask::Create(..) | Ask::Update(..) | Ask::Patch(..) | Ask::Delete(..) => false,
        }
    }
}

/// What an interaction made.
#[derive(Debug, Clone)]
pub enum Made {
    /// What is stored now.
    Written(Answer),
    /// It is gone.
    Deleted,
    /// What was read.
    Read(Arc<Stored>),
    /// What was found, and by which search.
    Found(Found, Box<Search>),
}

impl App {
    /// Does one thing, in a transaction of its own.
    pub async fn perform(&self, context: &Context, ask: Ask) -> Result<Made, Error> {
        Ok(match ask {
            Ask::Create(resource, criteria) => Made::Written(self.create(context, resource, criteria.as_ref()).await?),
            Ask::Update(target, resource, demand) => {
                Made::Written(self.update(context, target, resource, &demand).await?)
            }
            Ask::Patch(target, patch, demand) => Made::Written(self.patch(context, target, &patch, &demand).await?),
            Ask::Delete(target, demand) => {
                self.delete(context, target, &demand).await?;
                Made::Deleted
            }
            Ask::Read(key) => Made::Read(self.read(context, &key).await?),
            Ask::Version(key, version) => Made::Read(self.vread(context, &key, version).await?),
            Ask::Search(search) => Made::Found(self.search(context, &search).await?, search),
        })
    }
}
