//! Enums whose values are words of logs and metrics.

/// Defines an enum of words. Each value fits in one byte.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$doc])* $word,)+ }

        impl $name {
            /// All values.
            $vis const ALL: &[Self] = &[$(Self::$word,)+];

            /// Returns the word for logs and metrics.
            $vis fn word(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }

        impl ::prometheus_client::encoding::EncodeLabelValue for $name {
            fn encode(
                &self,
                encoder: &mut ::prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> ::std::fmt::Result {
                ::std::fmt::Write::write_str(encoder, self.word())
            }
        }
    };
}

pub(crate) use words;
