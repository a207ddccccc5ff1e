//! Lists, queries and checksum databases.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use stoa_gomod::sumdb::Level;
use stoa_gomod::{ModulePath, Revision};

use super::answer::{self, JSON, Kind, MINUTE, OCTETS, Response, SUMDB_DAY, SUMDB_HOUR, TEXT};
use super::body::Body;
use super::{Asked, Proxy};
use crate::fill::{FillError, SumdbQuestion};

impl Proxy {
    pub(super) async fn list(&self, asked: Asked<'_>, module: &ModulePath) -> Response {
        let list = match asked.is_local {
            true => self.fill.list_local(module).await,
            false => self.fill.list(module, &asked.via()).await.map(Some),
        };
        question(list, TEXT)
    }

    pub(super) async fn latest(&self, asked: Asked<'_>, module: &ModulePath) -> Response {
        let info = match asked.is_local {
            true => self.fill.latest_local(module).await,
            false => self.fill.latest(module, &asked.via()).await.map(Some),
        };
        question(info, JSON)
    }

    pub(super) async fn query(&self, asked: Asked<'_>, module: &ModulePath, revision: &Revision) -> Response {
        let info = match asked.is_local {
            true => self.fill.query_local(module, revision).await,
            false => self.fill.query(module, revision, &asked.via()).await.map(Some),
        };
        question(info, JSON)
    }

    /// Says yes only if answers are to be had: a client that reads yes asks nobody else.
    pub(super) async fn sumdb_supported(&self, asked: Asked<'_>, name: &str) -> Response {
        match self.fill.sumdb_supported(name, &asked.via(), asked.is_local).await {
            Ok(true) => answer::plain(StatusCode::OK, TEXT, SUMDB_DAY, Body::Empty),
            Ok(false) if asked.is_local => answer::not_fetched(),
            Ok(false) => {
                let reason = format!("no upstream passes the checksum database {name} on");
                answer::failed(&FillError::Absent(reason.into()), Kind::Sumdb)
            }
            Err(error) => logged(&error, Kind::Sumdb),
        }
    }

    pub(super) async fn sumdb(&self, asked: Asked<'_>, name: &str, question: &SumdbQuestion) -> Response {
        let answer = match self.fill.sumdb(name, question, &asked.via(), asked.is_local).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return answer::not_fetched(),
            Err(error) => return logged(&error, Kind::Sumdb),
        };
        let cache = match (answer.status, question) {
            (200, SumdbQuestion::Latest) => SUMDB_HOUR,
            (200, _) => SUMDB_DAY,
            (404 | 410, _) => HeaderValue::from_static("max-age=60"),
            _ => HeaderValue::from_static("no-store"),
        };
        let usual = match question {
            SumdbQuestion::Tile(tile) if tile.level != Level::Data => OCTETS,
            _ => TEXT,
        };
        let told = answer.content_type.and_then(|told| HeaderValue::try_from(told).ok());
        // A status that is none of HTTP's is as good as no answer.
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
        answer::plain(status, told.unwrap_or(usual), cache, Body::Whole(answer.body))
    }
}

fn question(result: Result<Option<bytes::Bytes>, FillError>, content_type: HeaderValue) -> Response {
    match result {
        Ok(Some(body)) => answer::module(StatusCode::OK, content_type, MINUTE, Body::Whole(body)),
        Ok(None) => answer::not_fetched(),
        Err(error) => logged(&error, Kind::Question),
    }
}

/// Answers with an error that no flight has put into the log.
fn logged(error: &FillError, kind: Kind) -> Response {
    match error {
        FillError::Absent(_)
        | FillError::Gone(_)
        | FillError::Offline(_)
        | FillError::Loop(_)
        | FillError::Private(_) => {}
        FillError::Store(_) | FillError::Broken(_) => log::error!("{error}"),
        _ => log::warn!("{error}"),
    }
    answer::failed(error, kind)
}
