<?php
// Stands for nginx: serves each WordPress by its name. http://production.localhost:PORT is production, every other
// name is the clone of that name. For `php -S`; PRODUCTION and CLONES are directories.
$name = preg_replace('/\.localhost(:\d+)?$/', '', $_SERVER['HTTP_HOST'] ?? '');
if (!preg_match('/^[a-z0-9][a-z0-9-]*$/', $name)) {
    http_response_code(400);
    exit("no such site\n");
}
$root = $name === 'production' ? getenv('PRODUCTION') : getenv('CLONES') . "/$name/site";
$root = realpath($root);
$path = rawurldecode(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
$file = $root === false ? false : realpath($root . $path);
if ($root === false || ($file !== false && !str_starts_with("$file/", "$root/"))) {
    http_response_code(404);
    exit("no such site\n");
}
if ($file !== false && is_dir($file)) {
    $file = realpath("$file/index.php");
}
if ($file === false) {
    // Pretty addresses of posts.
    $file = "$root/index.php";
}
if (!str_ends_with($file, '.php')) {
    $types = ['css' => 'text/css', 'js' => 'text/javascript', 'svg' => 'image/svg+xml', 'png' => 'image/png', 'txt' => 'text/plain'];
    header('Content-Type: ' . ($types[pathinfo($file, PATHINFO_EXTENSION)] ?? 'application/octet-stream'));
    readfile($file);
    exit;
}
$_SERVER['DOCUMENT_ROOT'] = $root;
$_SERVER['SCRIPT_FILENAME'] = $file;
$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = substr($file, strlen($root));
chdir(dirname($file));
require $file;
