pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct Error(ErrorKind);

#[derive(Clone, Copy, Debug)]
pub(crate) enum ErrorKind {
    Closed,
    Exhausted,
    InvalidConfig,
    MessageTooLarge,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self(kind)
    }

    pub(crate) fn invalid_config(_detail: &str) -> Self {
        Self(ErrorKind::InvalidConfig)
    }

    pub(crate) fn detail(self, _detail: impl Into<String>) -> Self {
        self
    }

    pub(crate) fn after(self, _retry_after: Option<std::time::Duration>) -> Self {
        self
    }
}
