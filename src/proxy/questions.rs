//! Lists, queries and checksum databases.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use stoa_gomod::Revision;
use stoa_gomod::sumdb::Level;

use super::answer::{self, JSON, MINUTE, NO_STORE, OCTETS, Response, SUMDB_DAY, SUMDB_HOUR, TEXT};
use super::body::Body;
use super::problem::{Problem, Subject};
use super::{Client, Proxy};
use crate::policy::ModulePermit;
use crate::sumdb::SumdbQuestion;
use crate::unavailable::Unavailable;

impl Proxy {
    pub(super) async fn list(&self, client: Client<'_>, permit: ModulePermit<'_>) -> Response {
        let list = match client.is_local {
            true => self.services.answers.list_local(permit).await,
            false => self.services.answers.list(permit, &client.via()).await.map(Some),
        };
        question(list, TEXT)
    }

    pub(super) async fn latest(&self, client: Client<'_>, permit: ModulePermit<'_>) -> Response {
        let info = match client.is_local {
            true => self.services.answers.latest_local(permit).await,
            false => self.services.answers.latest(permit, &client.via()).await.map(Some),
        };
        question(info, JSON)
    }

    pub(super) async fn query(
        &self,
        client: Client<'_>,
        permit: ModulePermit<'_>,
        revision: &Revision,
    ) -> Response {
        let info = match client.is_local {
            true => self.services.answers.query_local(permit, revision).await,
            false => self.services.answers.query(permit, revision, &client.via()).await.map(Some),
        };
        question(info, JSON)
    }

    /// Answers 200 only if an upstream forwards the database: a client that reads 200 asks nobody else.
    pub(super) async fn sumdb_supported(&self, client: Client<'_>, name: &str) -> Response {
        match self.services.sumdb.is_supported(name, &client.via(), client.is_local).await {
            Ok(true) => answer::plain(StatusCode::OK, TEXT, SUMDB_DAY, Body::Empty),
            Ok(false) if client.is_local => Problem::NotStored.answer(),
            Ok(false) => {
                let reason = format!("no upstream forwards the checksum database {name}");
                Problem::Failed(&Unavailable::Absent(reason.into()), Subject::Sumdb).answer()
            }
            Err(error) => logged(&error, Subject::Sumdb),
        }
    }

    pub(super) async fn sumdb(&self, client: Client<'_>, name: &str, question: &SumdbQuestion) -> Response {
        let answer = match self.services.sumdb.answer(name, question, &client.via(), client.is_local).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Problem::NotStored.answer(),
            Err(error) => return logged(&error, Subject::Sumdb),
        };
        let cache = match (answer.status, question) {
            (200, SumdbQuestion::Latest) => SUMDB_HOUR,
            (200, _) => SUMDB_DAY,
            (404 | 410, _) => HeaderValue::from_static("max-age=60"),
            _ => NO_STORE,
        };
        let usual = match question {
            SumdbQuestion::Tile(tile) if answer.status == 200 && tile.level != Level::Data => OCTETS,
            _ => TEXT,
        };
        // An error is a text, whatever its sender says: a browser must not take it for a page of this server.
        let sent = answer.content_type.filter(|_| answer.status == 200);
        let content_type = sent.and_then(|text| HeaderValue::try_from(text).ok());
        // An invalid status counts as no answer.
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
        answer::plain(status, content_type.unwrap_or(usual), cache, Body::Whole(answer.body))
    }
}

fn question(result: Result<Option<bytes::Bytes>, Unavailable>, content_type: HeaderValue) -> Response {
    match result {
        Ok(Some(body)) => answer::module(StatusCode::OK, content_type, MINUTE, Body::Whole(body)),
        Ok(None) => Problem::NotStored.answer(),
        Err(error) => logged(&error, Subject::Question),
    }
}

/// Logs an error, and answers with it.
fn logged(error: &Unavailable, subject: Subject) -> Response {
    match error {
        // The go command asks for every prefix of a package path as a module, so it is normal that a module does not exist.
        // Some upstreams answer 403 then.
        Unavailable::Absent(_)
        | Unavailable::Unreached(_)
        | Unavailable::Refused(_)
        | Unavailable::Gone(_)
        | Unavailable::Offline(_)
        | Unavailable::Loop(_)
        | Unavailable::Private(_) => log::debug!(reason:% = error; "answering a request with an error"),
        // The task that failed has logged the reason.
        Unavailable::Broken(_) => log::debug!(reason:% = error; "cannot answer a request"),
        Unavailable::Store(_) => log::error!(reason:% = error; "cannot answer a request"),
        _ => log::warn!(reason:% = error; "cannot answer a request"),
    }
    Problem::Failed(error, subject).answer()
}
