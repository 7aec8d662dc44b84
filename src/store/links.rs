//! The link table: a copy's origin URL at a partner ↔ the copy's place here (design D2). Equal ids of two sources never
//! meet, because the partner is part of the key.

use crate::error::Error;
use crate::fhir::{Key, ResourceType};
use crate::store::later::Shape;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A copy and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whose server.
    pub partner: String,
    /// The absolute URL there, without a version.
    pub origin: String,
    /// The copy.
    pub key: Key,
    /// What told its version there from every other.
    pub mark: Option<String>,
    /// When it was last read there.
    pub checked: Timestamp,
}

const COLUMNS: &str = "partner, origin, type, id, etag, checked";

const LINK: Shape = Shape {
    table: "link",
    columns: &["partner", "origin", "type", "id", "etag", "checked"],
    key: 2,
    or: " on conflict (partner, origin) do update set type = excluded.type, id = excluded.id, etag = excluded.etag,
         checked = excluded.checked",
};

fn link_of(row: &Row) -> Result<Link, Error> {
    let kind = row.text(2)?;
    let kind = ResourceType::parse(&kind).ok_or_else(|| Error::internal(format!("unknown type {kind}")))?;
    Ok(Link {
        partner: row.text(0)?,
        origin: row.text(1)?,
        key: Key::new(kind, row.text(3)?),
        mark: row.text_or_null(4)?,
        checked: row.time(5)?,
    })
}

impl Tx {
    /// The copy of what stands at this URL of a partner.
    pub async fn link_from(&mut self, partner: &str, origin: &str) -> Result<Option<Link>, Error> {
        let text = format!("select {COLUMNS} from link where partner = $1 and origin = $2");
        self.one(text, args![partner, origin]).await?.as_ref().map(link_of).transpose()
    }

    /// Where a resource here came from, or was sent to.
    pub async fn links_of(&mut self, key: &Key) -> Result<Vec<Link>, Error> {
        if let Some(links) = self.met.links.get(key) {
            return Ok(links.clone());
        }
        let text = format!("select {COLUMNS} from link where type = $1 and id = $2 order by partner");
        let rows = self.all(text, args![key.kind.name(), &key.id]).await?;
        let links = rows.iter().map(link_of).collect::<Result<Vec<Link>, Error>>()?;
        if self.is_writing() {
            self.met.links.insert(key.clone(), links.clone());
        }
        Ok(links)
    }

    /// Remembers or refreshes a link.
    pub async fn put_link(&mut self, partner: &str, origin: &str, key: &Key, mark: Option<&str>) -> Result<(), Error> {
        let stamp = self.stamp();
        self.met.links.clear();
        self.met.linked = true;
        let row = args![partner, origin, key.kind.name(), &key.id, mark, stamp];
        self.insert(LINK, vec![row]).await
    }
}
