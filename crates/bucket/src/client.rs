//! Requests to a bucket. No other module knows how a service is asked.
//!
//! Keys are relative to the prefix of the bucket. Requests for small objects have a time limit. Contents are streamed,
//! and have a limit only for the time without progress.
//!
//! A conditional write that fails may have been done: the answer may be lost, and the client sends a request again
//! whose answer was an error. [`Document`](crate::Document) tells the two apart.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Error as ClientError, GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, PutResult, UpdateVersion,
};
use time::OffsetDateTime;

use crate::unnameable::{Observed, Unnameable};
use crate::{BucketError, BucketUrl, Service, Trouble};

/// Time limit for a request for a small object, with all its repetitions.
const SMALL_TIMEOUT: Duration = Duration::from_secs(40);

/// Size of the parts of an upload. A smaller file is sent by one request. All services accept parts of this size.
const PART_BYTES: u64 = 8 << 20;

/// Number of parts of one upload that are sent at the same time.
const PARTS_AT_ONCE: usize = 2;

/// A bucket, or a part of one below a prefix.
#[derive(Debug, Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    url: BucketUrl,
    observed: Arc<Observed>,
}

/// The condition of a later write: the object is still the one that was read or written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tag {
    e_tag: Option<String>,
    version: Option<String>,
}

/// Properties of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The size in bytes.
    pub size: u64,
    /// The time of the last write, by the clock of the service.
    pub modified: OffsetDateTime,
    /// The tag.
    pub tag: Tag,
}

/// A small object.
#[derive(Debug, Clone)]
pub struct Object {
    /// The content.
    pub bytes: Bytes,
    /// Its properties.
    pub meta: Meta,
}

/// The answer to a conditional read.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// There is no such object.
    Absent,
    /// The object is still the one with the given tag.
    Same,
    /// The object.
    Found(Object),
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its properties.
    pub meta: Meta,
}

/// The objects and folders directly below a key.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// The objects, in order.
    pub entries: Vec<Entry>,
    /// The keys of the folders, without a slash at the end, in order.
    pub folders: Vec<String>,
}

/// The content of an object, on its way.
pub struct Content {
    /// The properties of the object.
    pub meta: Meta,
    /// The bytes.
    pub bytes: BoxStream<'static, Result<Bytes, BucketError>>,
}

impl Tag {
    /// Returns the tag that a service gave to an object, for another process.
    pub fn new(e_tag: Option<String>, version: Option<String>) -> Self {
        Self { e_tag, version }
    }

    /// Returns the ETag.
    pub fn e_tag(&self) -> Option<&str> {
        self.e_tag.as_deref()
    }

    /// Returns the version or generation, if the service has such.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl Bucket {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        signer: Option<Arc<dyn Signer>>,
        url: BucketUrl,
        observed: Arc<Observed>,
    ) -> Self {
        Self { inner: Arc::new(Inner { store, signer, url, observed }) }
    }

    /// Returns a bucket in memory, for tests.
    pub fn in_memory() -> Self {
        let url =
            BucketUrl { service: crate::Service::S3, name: "memory".to_owned(), prefix: "go".to_owned() };
        Self::new(Arc::new(object_store::memory::InMemory::new()), None, url, Arc::default())
    }

    /// Returns its URL.
    pub fn url(&self) -> &BucketUrl {
        &self.inner.url
    }

    /// Returns the URL of an object, for messages.
    pub fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.inner.url)
    }

    /// Returns the time of the service, as its last answer said. `None` before the first answer.
    pub fn service_time(&self) -> Option<OffsetDateTime> {
        self.inner.observed.service_time()
    }

    /// Returns the number of requests so far: those that read, and those that write or list.
    pub fn requests(&self) -> (u64, u64) {
        self.inner.observed.requests()
    }

    /// Returns the keys that no request can name, as far as listings have shown them since the last call.
    pub fn take_unnameable(&self) -> Unnameable {
        self.inner.observed.take_unnameable(&self.inner.url.prefix)
    }

    fn path(&self, what: &'static str, key: &str) -> Result<Path, BucketError> {
        let prefix = &self.inner.url.prefix;
        let full = match (prefix.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => prefix.clone(),
            (false, false) => format!("{prefix}/{key}"),
        };
        // `Path::from` would encode characters, and name another object.
        Path::parse(full).map_err(|error| BucketError::new(Trouble::Damaged, what, self.url_of(key), error))
    }

    /// Returns the key of an object in a listing. `None` if it is not below the prefix.
    fn key(&self, location: &Path) -> Option<String> {
        let prefix = &self.inner.url.prefix;
        if prefix.is_empty() {
            return Some(location.to_string());
        }
        Some(location.as_ref().strip_prefix(prefix)?.strip_prefix('/')?.to_owned())
    }

    async fn limited<T>(
        &self,
        what: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Result<T, ClientError>, BucketError> {
        tokio::time::timeout(SMALL_TIMEOUT, request)
            .await
            .map_err(|_| BucketError::timeout(what, self.url_of(key), SMALL_TIMEOUT.as_secs()))
    }

    /// Reads a small object of at most `max` bytes. `None` if there is none.
    pub async fn get(&self, key: &str, max: u64) -> Result<Option<Object>, BucketError> {
        match self.get_if(key, max, GetOptions::default()).await? {
            Fetched::Found(object) => Ok(Some(object)),
            Fetched::Absent | Fetched::Same => Ok(None),
        }
    }

    /// Reads a small object of at most `max` bytes, unless it still has this tag.
    pub async fn get_unless(&self, key: &str, max: u64, tag: &Tag) -> Result<Fetched, BucketError> {
        let options = GetOptions { if_none_match: tag.e_tag.clone(), ..GetOptions::default() };
        self.get_if(key, max, options).await
    }

    async fn get_if(&self, key: &str, max: u64, options: GetOptions) -> Result<Fetched, BucketError> {
        let path = self.path("read", key)?;
        let request = async {
            let result = self.inner.store.get_opts(&path, options).await?;
            let meta = result.meta.clone();
            if meta.size > max {
                return Ok(Err(meta.size));
            }
            Ok(Ok((result.bytes().await?, meta)))
        };
        match self.limited("read", key, request).await? {
            Ok(Ok((bytes, meta))) => Ok(Fetched::Found(Object { bytes, meta: Meta::of(&meta) })),
            Ok(Err(size)) => Err(BucketError::new(
                Trouble::Damaged,
                "read",
                self.url_of(key),
                format_args!("its size is {size} bytes, the limit is {max} bytes"),
            )),
            Err(ClientError::NotFound { .. }) => Ok(Fetched::Absent),
            Err(ClientError::NotModified { .. }) => Ok(Fetched::Same),
            Err(error) => Err(BucketError::of_client("read", self.url_of(key), &error)),
        }
    }

    /// Returns the properties of an object. `None` if there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Meta>, BucketError> {
        let path = self.path("read the metadata of", key)?;
        match self.limited("read the metadata of", key, self.inner.store.head(&path)).await? {
            Ok(meta) => Ok(Some(Meta::of(&meta))),
            Err(ClientError::NotFound { .. }) => Ok(None),
            Err(error) => Err(BucketError::of_client("read the metadata of", self.url_of(key), &error)),
        }
    }

    /// Starts to read an object, or a part of it. `None` if there is none, or if it no longer has the tag.
    pub async fn read(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        tag: Option<&Tag>,
    ) -> Result<Option<Content>, BucketError> {
        let path = self.path("read", key)?;
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            if_match: tag.and_then(|tag| tag.e_tag.clone()),
            ..GetOptions::default()
        };
        match self.limited("read", key, self.inner.store.get_opts(&path, options)).await? {
            Ok(result) => {
                let (meta, url) = (Meta::of(&result.meta), self.url_of(key));
                let bytes = result.into_stream();
                let bytes = bytes.map_err(move |error| BucketError::of_client("read", &url, &error)).boxed();
                Ok(Some(Content { meta, bytes }))
            }
            Err(ClientError::NotFound { .. } | ClientError::Precondition { .. }) => Ok(None),
            Err(error) => Err(BucketError::of_client("read", self.url_of(key), &error)),
        }
    }

    /// Writes a small object if there is none. `None` if the service says that there is one.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Option<Tag>, BucketError> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// Writes a small object if it still has this tag. `None` if the service says that it has not.
    pub(crate) async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        tag: &Tag,
    ) -> Result<Option<Tag>, BucketError> {
        let version = UpdateVersion { e_tag: tag.e_tag.clone(), version: tag.version.clone() };
        self.put(key, bytes, PutMode::Update(version)).await
    }

    /// Writes a small object if there is none. Returns whether the object has this content now.
    pub async fn write_if_absent(&self, key: &str, bytes: Bytes) -> Result<bool, BucketError> {
        if self.create(key, bytes.clone()).await?.is_some() {
            return Ok(true);
        }
        let size = bytes.len() as u64;
        // A larger object would be an error to read, and has other content.
        if self.head(key).await?.is_none_or(|found| found.size != size) {
            return Ok(false);
        }
        Ok(self.get(key, size).await?.is_some_and(|found| found.bytes == bytes))
    }

    /// Writes a small object that nothing relies on, whether there is one or not.
    pub async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), BucketError> {
        self.put(key, bytes, PutMode::Overwrite).await.map(drop)
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Option<Tag>, BucketError> {
        let path = self.path("write", key)?;
        let options = PutOptions { mode, ..PutOptions::default() };
        let request = self.inner.store.put_opts(&path, PutPayload::from(bytes), options);
        match self.limited("write", key, request).await? {
            Ok(result) => Ok(Some(Tag::of_put(result))),
            Err(ClientError::AlreadyExists { .. } | ClientError::Precondition { .. }) => Ok(None),
            Err(error) => Err(BucketError::of_client("write", self.url_of(key), &error)),
        }
    }

    /// Writes a file below a key that no other writer chooses. Keeps at most a few parts in memory.
    pub async fn upload(&self, key: &str, file: Arc<File>, size: u64) -> Result<Tag, BucketError> {
        let path = self.path("write", key)?;
        let failed = |error: ClientError| BucketError::of_client("write", self.url_of(key), &error);
        if size <= PART_BYTES {
            let payload = self.part(key, &file, 0..size).await?.into();
            return self.inner.store.put(&path, payload).await.map(Tag::of_put).map_err(failed);
        }
        let mut upload = self.inner.store.put_multipart(&path).await.map_err(failed)?;
        match self.send_parts(key, upload.as_mut(), &file, size).await {
            Ok(tag) => Ok(tag),
            Err(error) => {
                // What stays is invisible. The service removes it if it has such a rule.
                if let Err(abort) = upload.abort().await {
                    log::debug!(reason:% = abort; "cannot abort an upload");
                }
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        file: &Arc<File>,
        size: u64,
    ) -> Result<Tag, BucketError> {
        let failed = |error: ClientError| BucketError::of_client("write", self.url_of(key), &error);
        let mut sending = futures_util::stream::FuturesUnordered::new();
        let mut at = 0;
        while at < size || !sending.is_empty() {
            if at < size && sending.len() < PARTS_AT_ONCE {
                let end = size.min(at + PART_BYTES);
                let part = self.part(key, file, at..end).await?;
                sending.push(upload.put_part(part.into()));
                at = end;
            } else {
                sending.next().await.transpose().map_err(failed)?;
            }
        }
        upload.complete().await.map(Tag::of_put).map_err(failed)
    }

    async fn part(&self, key: &str, file: &Arc<File>, range: Range<u64>) -> Result<Bytes, BucketError> {
        let file = Arc::clone(file);
        let read = move || {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
            file.read_exact_at(&mut bytes, range.start).map(|()| Bytes::from(bytes))
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other);
        read.and_then(|read| read)
            .map_err(|error| BucketError::local("read the local file for", self.url_of(key), &error))
    }

    /// Lists all objects below a key, in order. Those after `after`, if it is given.
    pub fn list(
        &self,
        below: &str,
        after: Option<&str>,
    ) -> Result<BoxStream<'static, Result<Entry, BucketError>>, BucketError> {
        let path = self.path("list", below)?;
        let path = Some(path).filter(|path| !path.as_ref().is_empty());
        let stream = match after {
            Some(after) => self.inner.store.list_with_offset(path.as_ref(), &self.path("list", after)?),
            None => self.inner.store.list(path.as_ref()),
        };
        let (this, url) = (self.clone(), self.url_of(below));
        let stream = stream.map_err(move |error| BucketError::of_client("list", &url, &error));
        Ok(stream.try_filter_map(move |meta| std::future::ready(Ok(this.entry(&meta)))).fuse().boxed())
    }

    /// Lists the objects and the folders directly below a key.
    pub async fn folder(&self, below: &str) -> Result<Folder, BucketError> {
        let path = self.path("list", below)?;
        let path = Some(path).filter(|path| !path.as_ref().is_empty());
        let listed = self.inner.store.list_with_delimiter(path.as_ref()).await;
        let listed = listed.map_err(|error| BucketError::of_client("list", self.url_of(below), &error))?;
        let mut entries: Vec<Entry> = listed.objects.iter().filter_map(|meta| self.entry(meta)).collect();
        let mut folders: Vec<String> = listed.common_prefixes.iter().filter_map(|at| self.key(at)).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        folders.sort();
        Ok(Folder { entries, folders })
    }

    fn entry(&self, meta: &ObjectMeta) -> Option<Entry> {
        let (key, mut meta) = (self.key(&meta.location)?, Meta::of(meta));
        if self.inner.url.service == Service::Azure {
            // Azure lists tags without the quotes that they have everywhere else.
            meta.tag.e_tag = meta.tag.e_tag.map(quoted);
        }
        Some(Entry { key, meta })
    }

    /// Deletes an object. Succeeds if there is none.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        let path = self.path("delete", key)?;
        match self.limited("delete", key, self.inner.store.delete(&path)).await? {
            Ok(()) | Err(ClientError::NotFound { .. }) => Ok(()),
            Err(error) => Err(BucketError::of_client("delete", self.url_of(key), &error)),
        }
    }

    /// Deletes many objects, by few requests where the service allows that. Calls `deleted` after each.
    pub async fn delete_all(
        &self,
        keys: BoxStream<'static, Result<String, BucketError>>,
        mut deleted: impl FnMut(),
    ) -> Result<(), BucketError> {
        let this = self.clone();
        let failed = Arc::new(std::sync::Mutex::new(None));
        let noted = Arc::clone(&failed);
        let paths = keys.map(move |key| {
            let path = key.and_then(|key| this.path("delete", &key));
            path.map_err(|error| {
                let text = error.to_string();
                *crate::unnameable::lock(&noted) = Some(error);
                ClientError::Generic { store: "bucket", source: text.into() }
            })
        });
        let mut results = self.inner.store.delete_stream(paths.boxed());
        while let Some(result) = results.next().await {
            match result {
                Ok(_) | Err(ClientError::NotFound { .. }) => deleted(),
                Err(error) => {
                    let own = crate::unnameable::lock(&failed).take();
                    return Err(
                        own.unwrap_or_else(|| BucketError::of_client("delete", &self.inner.url, &error))
                    );
                }
            }
        }
        Ok(())
    }

    /// Copies an object if there is none with the new key. Returns false if the service says that there is one. It may
    /// be this copy, if the answer to an earlier attempt was lost.
    pub async fn copy_if_absent(&self, from: &str, to: &str) -> Result<bool, BucketError> {
        let (source, target) = (self.path("copy", from)?, self.path("copy", to)?);
        match self.inner.store.copy_if_not_exists(&source, &target).await {
            Ok(()) => Ok(true),
            Err(ClientError::AlreadyExists { .. } | ClientError::Precondition { .. }) => Ok(false),
            Err(error) => Err(BucketError::of_client("copy", self.url_of(from), &error)),
        }
    }

    /// Returns a URL that reads an object and is valid for a while. `None` if the service or the credentials cannot
    /// sign without another request.
    pub async fn signed_url(&self, key: &str, valid_for: Duration) -> Result<Option<String>, BucketError> {
        let Some(signer) = &self.inner.signer else { return Ok(None) };
        let path = self.path("sign a URL of", key)?;
        // The method is of a crate that only the client needs.
        let signed = signer.signed_url(Default::default(), &path, valid_for).await;
        signed
            .map(|url| Some(url.to_string()))
            .map_err(|error| BucketError::of_client("sign a URL of", self.url_of(key), &error))
    }
}

fn quoted(tag: String) -> String {
    if tag.starts_with('"') { tag } else { format!("\"{tag}\"") }
}

impl Tag {
    fn of_put(result: PutResult) -> Self {
        Self { e_tag: result.e_tag, version: result.version }
    }
}

impl Meta {
    fn of(meta: &ObjectMeta) -> Self {
        let modified = OffsetDateTime::from_unix_timestamp(meta.last_modified.timestamp());
        Self {
            size: meta.size,
            modified: modified.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            tag: Tag { e_tag: meta.e_tag.clone(), version: meta.version.clone() },
        }
    }
}
