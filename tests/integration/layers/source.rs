//! What one file of `src/` says outside its test code: what it imports, defines and names.

use std::collections::{HashMap, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Block, Expr, Field, File, ImplItem, Item, Macro, Meta, Path, Signature, Stmt, Token,
    TraitItem, UseTree, Visibility,
    parse::{ParseStream, Parser},
    punctuated::Punctuated,
    spanned::Spanned,
    visit::{self, Visit},
};

/// A path of a module or an item: `["server", "accept"]`.
pub(super) type Names = Vec<String>;

/// A module: a file, or a `mod name { .. }` inside a file.
#[derive(Default)]
pub(super) struct Module {
    pub(super) file: String,
    pub(super) defined: HashSet<String>,
    pub(super) imported: HashMap<String, Names>,
    /// Modules of which everything is imported.
    pub(super) globs: Vec<Names>,
}

/// A path as it is written, in `module`.
pub(super) struct Mention {
    pub(super) module: Names,
    pub(super) path: Names,
    pub(super) line: usize,
    /// Part of a `pub use` or `pub(..) use`.
    pub(super) exported: bool,
}

pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

/// All that is known about one file. Test code contributes nothing.
pub(super) struct Source {
    file: String,
    inside: Names,
    pub(super) modules: HashMap<Names, Module>,
    pub(super) mentions: Vec<Mention>,
    pub(super) functions: Vec<Function>,
    /// Child modules in files of their own that only tests have.
    pub(super) test_modules: Vec<Names>,
    pub(super) test_lines: usize,
}

impl Source {
    /// `file` is relative to `src/`.
    pub(super) fn read(file: &str, text: &str) -> Self {
        let parsed: File = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{file}: {error}"));
        let inside = module_of(file);
        let module = Module { file: file.to_owned(), ..Module::default() };
        let mut source = Self {
            file: file.to_owned(),
            modules: HashMap::from([(inside.clone(), module)]),
            inside,
            mentions: Vec::new(),
            functions: Vec::new(),
            test_modules: Vec::new(),
            test_lines: 0,
        };
        source.visit_file(&parsed);
        source
    }

    fn module(&mut self) -> &mut Module {
        let module = Module { file: self.file.clone(), ..Module::default() };
        self.modules.entry(self.inside.clone()).or_insert(module)
    }

    fn skips(&mut self, attributes: &[Attribute], node: &impl Spanned) -> bool {
        let tests = only_for_tests(attributes);
        if tests {
            self.test_lines += lines(node);
        }
        tests
    }

    fn mention(&mut self, path: Names, line: usize, exported: bool) {
        self.mentions.push(Mention { module: self.inside.clone(), path, line, exported });
    }

    fn import(&mut self, tree: &UseTree, before: &[String], exported: bool) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(&path.ident), exported),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.import(item, before, exported)),
            UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned().unwrap_or_default();
                self.bring(last, before.to_vec(), name.span().start().line, exported);
            }
            UseTree::Name(name) => {
                self.bring(name.ident.to_string(), with(&name.ident), name.span().start().line, exported);
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { before.to_vec() } else { with(&rename.ident) };
                self.bring(rename.rename.to_string(), path, rename.span().start().line, exported);
            }
            UseTree::Glob(glob) => {
                self.module().globs.push(before.to_vec());
                self.mention(before.to_vec(), glob.span().start().line, exported);
            }
        }
    }

    fn bring(&mut self, name: String, path: Names, line: usize, exported: bool) {
        self.module().imported.insert(name, path.clone());
        self.mention(path, line, exported);
    }

    fn function(&mut self, signature: &Signature, body: &Block) {
        let (line, end) = (signature.span().start().line, body.span().end().line);
        self.functions.push(Function { name: signature.ident.to_string(), line, lines: end + 1 - line });
    }

    /// The items that a macro such as `pin_project!` defines.
    fn define_from(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for pair in tokens.windows(2) {
            if let [TokenTree::Ident(keyword), TokenTree::Ident(name)] = pair
                && ["const", "enum", "fn", "static", "struct", "trait", "type", "union"]
                    .contains(&&*keyword.to_string())
            {
                self.module().defined.insert(name.to_string());
            }
        }
    }

    /// The paths inside a macro, which are only tokens: `a::b::c`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut colons = 0;
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.mention(std::mem::take(&mut path), line, false);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.mention(std::mem::take(&mut path), line, false);
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.mention(std::mem::take(&mut path), line, false);
                    colons = 0;
                }
            }
        }
        self.mention(path, line, false);
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item(&mut self, item: &'ast Item) {
        if self.skips(&attributes_of(item), item) {
            if let Item::Mod(module) = item {
                self.test_modules.push([&*self.inside, &[module.ident.to_string()]].concat());
            }
            return;
        }
        if let Some(name) = name_of(item) {
            self.module().defined.insert(name);
        }
        match item {
            Item::Use(item) => self.import(&item.tree, &[], !matches!(item.vis, Visibility::Inherited)),
            Item::Mod(module) if module.content.is_some() => {
                self.inside.push(module.ident.to_string());
                self.module();
                visit::visit_item(self, item);
                self.inside.pop();
            }
            Item::Fn(item) => self.function(&item.sig, &item.block),
            Item::Macro(item) => self.define_from(item.mac.tokens.clone()),
            _ => {}
        }
        if !matches!(item, Item::Use(_) | Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !self.skips(&attributes_of(item), item) {
            if let ImplItem::Fn(item) = item {
                self.function(&item.sig, &item.block);
            }
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !self.skips(&attributes_of(item), item) {
            if let TraitItem::Fn(item) = item
                && let Some(body) = &item.default
            {
                self.function(&item.sig, body);
            }
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if !self.skips(&field.attrs, field) {
            visit::visit_field(self, field);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let attributes: &[Attribute] = match statement {
            Stmt::Local(local) => &local.attrs,
            Stmt::Macro(found) => &found.attrs,
            Stmt::Expr(Expr::Block(block), _) => &block.attrs,
            Stmt::Expr(Expr::Call(call), _) => &call.attrs,
            Stmt::Expr(Expr::MethodCall(call), _) => &call.attrs,
            // An item among the statements is visited as an item.
            Stmt::Item(_) | Stmt::Expr(..) => &[],
        };
        if !self.skips(attributes, statement) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mention(names, path.span().start().line, false);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, found: &'ast Macro) {
        self.visit_path(&found.path);
        self.tokens(found.tokens.clone());
    }
}

/// The module that a file of `src/` contains.
pub(super) fn module_of(file: &str) -> Names {
    let mut names: Names = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

fn lines(node: &impl Spanned) -> usize {
    let span = node.span();
    span.end().line + 1 - span.start().line
}

/// The outer attributes of any kind of item.
fn attributes_of(node: &impl ToTokens) -> Vec<Attribute> {
    let outer = |input: ParseStream<'_>| {
        let attributes = Attribute::parse_outer(input)?;
        input.parse::<TokenStream>()?;
        Ok(attributes)
    };
    outer.parse2(node.to_token_stream()).expect("tokens of an item that was parsed")
}

fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = || attribute.parse_args::<Meta>();
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg") && condition().is_ok_and(|condition| needs_test(&condition)))
    })
}

/// Whether a condition of `cfg` can only be met in a test.
fn needs_test(condition: &Meta) -> bool {
    let parts = |list: &syn::MetaList| {
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
    };
    match condition {
        Meta::Path(path) => path.is_ident("test") || path.is_ident("doctest"),
        Meta::List(list) if list.path.is_ident("all") => parts(list).iter().any(needs_test),
        Meta::List(list) if list.path.is_ident("any") => parts(list).iter().all(needs_test),
        _ => false,
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
